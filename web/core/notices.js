import { h } from "./dom.js";
import { address } from "./http.js";
import { Problem } from "./problem.js";

const shown = new WeakSet();

/**
 * A problem as a person can read it and pass it on: what happened, its code (which links to the
 * registry of errors) and the request id that the service's log has too.
 */
export function problemNotice(problem, { heading = null, errors = [], onDismiss = null } = {}) {
  shown.add(problem);
  const facts = h("dl", { class: "facts" });
  if (problem.code) facts.append(h("div", {}, h("dt", {}, "Code"), h("dd", {}, codeLink(problem))));
  if (problem.requestId) facts.append(requestId(problem.requestId));
  return h(
    "div",
    { class: "notice problem" },
    heading && h("p", { class: "notice-heading" }, heading),
    h("p", { class: "notice-title" }, problem.title),
    problem.detail && h("p", {}, problem.detail),
    errors.length > 0 && h("ul", {}, errors.map((text) => h("li", {}, text))),
    facts.childElementCount > 0 && facts,
    onDismiss && dismissButton(onDismiss),
  );
}

/** Shows a problem once in a container that is a live region, with a button that removes it. */
export function report(container, problem, options = {}) {
  if (shown.has(problem)) return;
  const known = problem instanceof Problem ? problem : new Problem({ detail: String(problem) });
  if (known !== problem) console.error(problem);
  const notice = problemNotice(known, { ...options, onDismiss: () => notice.remove() });
  container.append(notice);
}

function codeLink({ code }) {
  const href = address(`errors#${code}`);
  return h("a", { href, target: "_blank", rel: "noopener" }, h("code", {}, code));
}

function requestId(id) {
  const text = h("code", {}, id);
  const copy = h("button", { class: "link", type: "button", on: { click: copyId } }, "Copy");
  async function copyId() {
    getSelection().selectAllChildren(text); // what remains where the clipboard is out of reach
    await navigator.clipboard?.writeText(id).then(() => copy.replaceChildren("Copied"), () => {});
  }
  return h("div", {}, h("dt", {}, "Request"), h("dd", {}, text, " ", copy));
}

function dismissButton(onDismiss) {
  const attributes = { class: "dismiss", type: "button", "aria-label": "Dismiss" };
  return h("button", { ...attributes, on: { click: onDismiss } }, "×");
}
