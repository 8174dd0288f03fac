import { h } from "./dom.js";

/**
 * Tells that a mail is on its way. In development, where a mail is a file, it is shown at once,
 * with its links to follow.
 */
export function mailNotice(address, mail) {
  return h(
    "div",
    { class: "notice sent" },
    h("p", { class: "notice-title" }, "A mail is on its way."),
    h("p", {}, "Follow the link in the mail to ", h("strong", {}, address), "."),
    mail && theMail(mail),
  );
}

function theMail({ subject, text, links }) {
  const following = links.map((link) => h("a", { class: "button", href: hashOf(link) }, "Follow its link"));
  return h(
    "div",
    { class: "mail" },
    h("p", { class: "hint" }, "In development this is the mail:"),
    h("p", { class: "mail-subject" }, subject),
    h("pre", {}, text),
    following,
  );
}

/** A link of the service itself stays in this tab: only what follows the # is another place. */
function hashOf(link) {
  return new URL(link).hash || link;
}
