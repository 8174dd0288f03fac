import { h } from "../core/dom.js";
import { api } from "../core/api.js";
import { action, field, form, moment, part } from "./parts.js";

/** What was done that matters, the newest first, for administrators. */
export function audit({ report }) {
  const rows = h("tbody");
  const more = h("div", {});
  let filter = {};

  async function show(after = null) {
    const query = new URLSearchParams({ ...filter, ...(after && { after }) });
    const page = await api.get(`audit?${query}`);
    if (!after) rows.replaceChildren();
    rows.append(...page.items.map(row));
    more.replaceChildren(...(page.next ? [action("Earlier", report, () => show(page.next))] : []));
  }

  function row({ at, action: what, subject, actor, address, details }) {
    const told = Object.entries(details).map(([key, value]) => `${key}: ${asText(value)}`).join(", ");
    const cells = [moment(at), h("code", {}, what), subject, actor ?? "operator", address, told];
    return h("tr", {}, cells.map((cell) => h("td", {}, cell ?? "")));
  }

  const fields = [field("Action, such as session.", "action"), field("Account number", "subject")];
  const find = form("Filter", fields, async (values) => {
    filter = Object.fromEntries(Object.entries(values).filter(([, value]) => value.trim()));
    await show();
  });
  const names = ["When", "What", "Whom", "By", "From", "Details"];
  const head = h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))));
  show().catch(report);
  const scrolling = { class: "scrolling", tabindex: 0, role: "region", "aria-label": "Entries" };
  return part("Entries", find, h("div", scrolling, h("table", {}, head, rows)), more);
}

function asText(value) {
  if (Array.isArray(value)) return value.join(" ") || "none";
  return String(value ?? "none");
}
