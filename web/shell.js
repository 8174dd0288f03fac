/**
 * What is around the pages: who is signed in, the pages there are, log out. Everything else is a
 * page of a feature, `web/<feature>/page.js`, or the module that signs people in; the service
 * names them in /pages.json.
 *
 * A page's module exports `mount(element, context)`, and `aside` where it is reached from elsewhere
 * and is not what is shown first. `context` has `user`, `path` (what follows "#<feature>/" in the
 * address), `go(path)` and `report(problem)`. What it returns may have `show(path)`, called when the
 * address changes, and `unmount()`.
 *
 * The sign-in's module exports `mount(element, context)` too. It offers its ways to the session,
 * and its `context` has what /pages.json says of it, `say(...elements)`, which puts them above it,
 * and `note(element)` and `report(problem)` for who is signed in. What it returns has `own`, where
 * the name of whoever is signed in leads, if anywhere; `show(notices)`, called when somebody is
 * signed out, with what they have to be told; `forget()`, when somebody has signed in; and
 * `follow()`, called with each address, which takes it up if that is one of its own, and returns
 * whether it was.
 */
import { focusOn, h } from "./core/dom.js";
import { address, send } from "./core/http.js";
import { problemNotice, report } from "./core/notices.js";
import { Problem } from "./core/problem.js";
import { api } from "./core/api.js";
import { session } from "./core/session.js";

const byId = (id) => document.getElementById(id);
const pages = new Map(); // the name of a feature -> its module
let current = null; // { name, page }
let entrance = null; // what signs people in
let listing = null; // what there is: /pages.json

function showProblem(problem, heading = null) {
  report(byId("notices"), problem, { heading });
}

// --- Signed out ---------------------------------------------------------------------------------

function signedOut(problems = []) {
  current?.page?.unmount?.();
  current = null;
  document.body.dataset.state = "out";
  document.title = "Duplex";
  byId("page").replaceChildren();
  byId("notices").replaceChildren();
  entrance.show(problems.map(whySignedOut));
}

function whySignedOut(problem, index) {
  const ended = index === 0 && problem.status === 401;
  return problemNotice(problem, { heading: ended ? "You were signed out." : null });
}

// --- Signed in ----------------------------------------------------------------------------------

async function signedIn() {
  document.body.dataset.state = "in";
  byId("signed-out").replaceChildren();
  nameTheUser();
  entrance.forget();
  byId("page").ariaBusy = "true";
  try {
    await loadPages();
    route();
    // At once, and not from a page that was opened while others were loading and has it already.
    if (!byId("page").contains(document.activeElement)) focusOn(byId("page"));
    await api.get("me"); // a session that ended elsewhere ends here at once
  } catch (problem) {
    if (session.user) showProblem(problem);
  } finally {
    byId("page").ariaBusy = "false";
  }
}

function nameTheUser() {
  byId("user-name").textContent = session.user.name;
  byId("user-email").textContent = session.user.email ?? "";
  if (entrance.own) byId("user-name").href = entrance.own;
  byId("log-out-everywhere").hidden = !session.way.leaveEverywhere;
}

async function loadPages() {
  const names = listing.pages;
  for (const name of names) {
    if (!pages.has(name)) pages.set(name, await load(`${name}/page.js`));
  }
  // A page that exports `aside` is reached from elsewhere, and is not what is shown first.
  const listed = names.filter((name) => !pages.get(name).aside);
  const links = listed.map((name) => h("li", {}, h("a", { href: `#${name}` }, title(name))));
  byId("pages").replaceChildren(...(listed.length > 1 ? links : []));
}

function title(name) {
  return name[0].toUpperCase() + name.slice(1);
}

function first() {
  return [...pages.keys()].find((name) => !pages.get(name).aside);
}

/** Shows what the address asks for: "#rooms/7" is the page `rooms` with the path "7". */
function route() {
  if (!session.user) return;
  const [asked, ...rest] = location.hash.slice(1).split("/");
  const name = pages.has(asked) ? asked : first();
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

async function start() {
  listing = await send("GET", "pages.json");
  const { module, ...rest } = listing.sign_in;
  entrance = (await load(module)).mount(byId("sign-in"), {
    ...rest,
    say: (...elements) => byId("signed-out").replaceChildren(...elements),
    note: (element) => byId("notices").append(element),
    report: showProblem,
  });
  const problems = await session.restore().then(() => [], (problem) => [problem]);
  // Or somebody was signed in, and has been told already why they are not any more.
  if (document.body.dataset.state === "starting") signedOut(problems);
  entrance.follow();
}

function load(module) {
  return import(address(module)).catch(() => Promise.reject(Problem.unreachable()));
}

// --- Start --------------------------------------------------------------------------------------

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which page is shown, not what has the focus
  focusOn(byId("main"));
});
byId("log-out").addEventListener("click", () => {
  session.logOut().catch((problem) => showProblem(problem, "You may still be signed in."));
});
byId("log-out-everywhere").addEventListener("click", () => {
  const heading = "You may still be signed in elsewhere.";
  session.logOutEverywhere().catch((problem) => showProblem(problem, heading));
});
session.addEventListener("started", signedIn);
session.addEventListener("changed", nameTheUser);
session.addEventListener("ended", (event) => {
  signedOut(event.detail);
  focusOn(byId("welcome-card"));
});
addEventListener("hashchange", () => entrance?.follow() || route());
addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof Problem) event.preventDefault();
  showProblem(event.reason);
});
await start().catch(showProblem);
