import { h } from "../core/dom.js";
import { api } from "../core/api.js";
import { fresh } from "../core/step-up.js";
import { action, field, form, moment, part } from "./parts.js";

/** Keys of somebody's programs. */
export function keys({ report }) {
  const list = h("ul", { class: "entries" });
  const made = h("div", { role: "status" });
  const scopes = h("fieldset", {}, h("legend", {}, "What it may do"));

  async function show() {
    const items = await api.get("api-keys");
    list.replaceChildren(...items.map(entry));
  }

  function entry({ id, name, prefix, scopes: may, expires_at, used_at }) {
    const end = () => api.delete(`api-keys/${id}`).then(show);
    const facts = [may.join(", ") || "nothing", " · until ", moment(expires_at), " · used ", moment(used_at)];
    return h(
      "li",
      {},
      h("div", {}, h("strong", {}, name), " ", h("code", {}, `${prefix}…`), h("p", { class: "hint" }, ...facts)),
      action("Revoke", report, end, { "aria-label": `Revoke ${name}` }),
    );
  }

  async function offer() {
    const items = await api.get("api-keys/scopes");
    const boxes = items.map(({ name, description }) => {
      const id = `scope-${name}`;
      const box = h("input", { type: "checkbox", id, name: "scopes", value: name });
      return h("div", { class: "choice" }, box, h("label", { for: id }, h("code", {}, name), ` ${description}`));
    });
    scopes.append(...boxes);
  }

  const fields = [
    field("Name", "name", { required: true }),
    field("Days until it expires", "expires_in_days", { type: "number", min: 1, max: 365, value: 90 }),
    scopes,
  ];
  const create = form("Create a key", fields, async (values, element) => {
    const json = {
      name: values.name,
      expires_in_days: Number(values.expires_in_days),
      scopes: new FormData(element).getAll("scopes"),
    };
    const { key } = await fresh(() => api.post("api-keys", json));
    element.reset();
    const says = "This is the key. It is shown only now:";
    made.replaceChildren(h("div", { class: "notice" }, h("p", {}, says), h("code", { class: "secret" }, key)));
    await show();
  });

  Promise.all([show(), offer()]).catch(report);
  return h("div", {}, part("API keys", made, list), part("New key", create));
}
