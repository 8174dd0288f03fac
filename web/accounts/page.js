/** The page of accounts: what somebody changes of their own, and what an administrator does. */
import { addStyles, focusOn, h } from "../core/dom.js";
import { audit } from "./audit.js";
import { keys } from "./keys.js";
import { people } from "./people.js";
import { profile } from "./profile.js";
import { providers } from "./providers.js";
import { secondFactor } from "./second-factor.js";
import { sessions } from "./sessions.js";
import { tickets } from "./tickets.js";

await addStyles(new URL("accounts.css", import.meta.url));

/** It is reached by the name of whoever is signed in, and is not what is shown first. */
export const aside = true;

const SECTIONS = [
  { path: "", name: "You", parts: [profile] },
  { path: "security", name: "Security", parts: [secondFactor, providers, sessions] },
  { path: "programs", name: "Programs", parts: [keys, tickets] },
  { path: "people", name: "People", parts: [people], admin: true },
  { path: "audit", name: "Audit log", parts: [audit], admin: true },
];

export function mount(element, context) {
  const admin = context.user.roles.includes("admin");
  const sections = SECTIONS.filter((section) => admin || !section.admin);
  const links = sections.map(({ path, name }) => h("a", { href: `#accounts/${path}` }, name));
  const nav = h("nav", { "aria-label": "Account" }, h("ul", {}, links.map((a) => h("li", {}, a))));
  const place = h("div", { class: "account-parts" });

  function show(path) {
    const section = sections.find((each) => each.path === path) ?? sections[0];
    for (const [i, link] of links.entries()) {
      if (sections[i] === section) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const heading = h("h1", {}, section.name);
    place.replaceChildren(heading, ...section.parts.map((part) => part(context)));
    document.title = `${section.name} – Duplex`;
    focusOn(heading);
  }

  element.classList.add("account");
  element.append(nav, place);
  show(context.path);
  return { show, unmount() {} };
}
