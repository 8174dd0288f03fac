/**
 * The account part of the page: sign up, log in, log out, who am I. Everything else is a page of
 * a feature: `web/<feature>/page.js`, which the service lists in /pages.json.
 *
 * Such a module exports `mount(element, context)`. `context` has `user`, `path` (what follows
 * "#<feature>/" in the address), `go(path)` and `report(problem)`. What it returns may have
 * `show(path)`, called when the address changes, and `unmount()`.
 */
import { focusOn, h } from "./core/dom.js";
import { onSubmit } from "./core/form.js";
import { address, send } from "./core/http.js";
import { problemNotice, report } from "./core/notices.js";
import { Problem } from "./core/problem.js";
import { api } from "./core/api.js";
import { session } from "./core/session.js";

const byId = (id) => document.getElementById(id);
const pages = new Map(); // the name of a feature -> its module
let current = null; // { name, page }

function showProblem(problem) {
  report(byId("notices"), problem);
}

// --- Signed out ---------------------------------------------------------------------------------

function choose(form) {
  for (const each of [byId("sign-up"), byId("log-in")]) each.hidden = each !== form;
}

function signedOut(problems = []) {
  current?.page?.unmount?.();
  current = null;
  document.body.dataset.state = "out";
  document.title = "Duplex";
  byId("page").replaceChildren();
  byId("notices").replaceChildren();
  byId("signed-out").replaceChildren(...problems.map(whySignedOut));
  if (problems.length > 0) choose(byId("log-in"));
}

function whySignedOut(problem, index) {
  return problemNotice(problem, { heading: index === 0 ? "You were signed out." : null });
}

// --- Signed in ----------------------------------------------------------------------------------

async function signedIn() {
  document.body.dataset.state = "in";
  byId("signed-out").replaceChildren();
  byId("user-name").textContent = session.user.name;
  byId("user-email").textContent = session.user.email;
  for (const form of document.querySelectorAll("#welcome form")) form.reset();
  try {
    await loadPages();
    route();
    await api.get("accounts/me"); // a session that ended elsewhere ends here at once
  } catch (problem) {
    if (session.user) showProblem(problem);
  }
}

async function loadPages() {
  const names = (await send("GET", "pages.json")).pages;
  for (const name of names) {
    if (!pages.has(name)) pages.set(name, await import(address(`${name}/page.js`)));
  }
  const links = names.map((name) => h("li", {}, h("a", { href: `#${name}` }, title(name))));
  byId("pages").replaceChildren(...(names.length > 1 ? links : []));
}

function title(name) {
  return name[0].toUpperCase() + name.slice(1);
}

/** Shows what the address asks for: "#rooms/7" is the page `rooms` with the path "7". */
function route() {
  if (!session.user) return;
  const [asked, ...rest] = location.hash.slice(1).split("/");
  const name = pages.has(asked) ? asked : pages.keys().next().value;
  const path = name === asked ? rest.join("/") : "";
  if (!name) return byId("page").replaceChildren(byId("no-pages").content.cloneNode(true));
  if (current?.name === name) return current.page?.show?.(path);
  current?.page?.unmount?.();
  for (const link of byId("pages").querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const element = h("div", { class: `page-${name}` });
  byId("page").replaceChildren(element);
  const go = (to) => {
    location.hash = `${name}/${to}`;
  };
  const report = (problem) => element.isConnected && showProblem(problem);
  const context = { user: session.user, path, go, report };
  current = { name, page: pages.get(name).mount(element, context) };
}

// --- Start --------------------------------------------------------------------------------------

onSubmit(byId("sign-up"), (values) => session.signUp(values));
onSubmit(byId("log-in"), (values) => session.logIn(values));
for (const button of document.querySelectorAll("[data-choose]")) {
  button.addEventListener("click", () => {
    const form = byId(button.dataset.choose);
    choose(form);
    form.querySelector("input").focus();
  });
}
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which page is shown, not what has the focus
  focusOn(byId("main"));
});
byId("log-out").addEventListener("click", async () => {
  try {
    await session.logOut();
  } catch (problem) {
    showProblem(problem);
  }
});
session.addEventListener("started", async () => {
  await signedIn();
  if (session.user) focusOn(byId("page"));
});
session.addEventListener("ended", (event) => {
  signedOut(event.detail);
  focusOn(byId("welcome-card"));
});
addEventListener("hashchange", route);
addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof Problem) event.preventDefault();
  showProblem(event.reason);
});
await session.restore();
if (!session.user) signedOut();
