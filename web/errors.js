/** Shows the registry of errors, which the service gives as JSON at the same address. */
import { h } from "./core/dom.js";
import { send } from "./core/http.js";
import { report } from "./core/notices.js";

const rows = document.getElementById("errors");
const filter = document.getElementById("filter");
const count = document.getElementById("count");

function row(error) {
  const self = h("a", { href: `#${error.code}` }, h("code", {}, error.code));
  const about = error.description === error.title ? null : h("p", {}, error.description);
  return h(
    "tr",
    { id: error.code },
    h("th", { scope: "row" }, self, h("p", { class: "title" }, error.title), about),
    h("td", { "data-label": "HTTP" }, String(error.status)),
    h("td", { "data-label": "Close" }, String(error.close_code)),
    h("td", { "data-label": "Number" }, String(error.error_code ?? "none")),
    h("td", { "data-label": "Try again" }, error.retryable ? "yes" : "no"),
  );
}

function apply() {
  const words = filter.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const each of rows.children) {
    const text = each.textContent.toLowerCase();
    each.hidden = !words.every((word) => text.includes(word));
    shown += each.hidden ? 0 : 1;
  }
  count.textContent = `${shown} of ${rows.children.length} errors`;
}

function showTarget() {
  const target = document.getElementById(location.hash.slice(1));
  for (const each of rows.children) each.classList.toggle("target", each === target);
  target?.scrollIntoView({ block: "center" });
}

try {
  const { errors } = await send("GET", "errors");
  rows.append(...errors.map(row));
  filter.addEventListener("input", apply);
  addEventListener("hashchange", showTarget);
  apply();
  showTarget();
} catch (problem) {
  report(document.getElementById("problem"), problem);
}
