import { h } from "../core/dom.js";
import { api } from "../core/api.js";
import { fresh } from "../core/step-up.js";
import { action, field, form, moment, part } from "./parts.js";

/** All accounts, for administrators. */
export function people({ report, user }) {
  const list = h("ul", { class: "entries" });
  const more = h("div", {});
  let search = "";

  async function show(after = null) {
    const query = new URLSearchParams({ ...(search && { search }), ...(after && { after }) });
    const page = await api.get(`accounts?${query}`);
    if (!after) list.replaceChildren();
    list.append(...page.items.map(entry));
    more.replaceChildren(...(page.next ? [action("More", report, () => show(page.next))] : []));
  }

  function entry(account) {
    const { id, name, email, roles, created_at, disabled, second_factor, sessions } = account;
    const facts = [
      email,
      roles.join(", ") || null,
      disabled && "disabled",
      second_factor && "second factor",
      sessions === 1 ? "1 session" : `${sessions} sessions`,
    ];
    const change = (method, path, json) => async () => {
      await fresh(() => api[method](`accounts/${id}/${path}`, json));
      await show();
    };
    const admin = roles.includes("admin");
    const without = roles.filter((role) => role !== "admin");
    const changed = admin ? without : [...roles, "admin"];
    const mine = String(id) === user.id;
    const button = (label, act) => action(label, report, act, { "aria-label": `${label} ${name}` });
    return h(
      "li",
      {},
      h(
        "div",
        {},
        h("strong", {}, name),
        h("p", { class: "hint" }, facts.filter(Boolean).join(" · "), " · since ", moment(created_at)),
      ),
      !mine &&
        h(
          "div",
          { class: "choices" },
          button(admin ? "Demote" : "Promote", change("put", "roles", { roles: changed })),
          button("Sign out", change("post", "sign-out")),
          second_factor && button("Remove second factor", change("delete", "second-factor")),
          button(disabled ? "Enable" : "Disable", change("post", disabled ? "enable" : "disable")),
        ),
    );
  }

  const find = form("Search", [field("Name or address", "search")], async (values) => {
    search = values.search.trim();
    await show();
  });
  show().catch(report);
  return part("Accounts", find, list, more);
}
