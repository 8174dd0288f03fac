import { h } from "../core/dom.js";
import { api } from "../core/api.js";
import { action, moment, part } from "./parts.js";

/** Where somebody is signed in, and the buttons that end it there. */
export function sessions({ report }) {
  const list = h("ul", { class: "entries" });

  async function show() {
    const { items } = await api.get("sessions");
    list.replaceChildren(...items.map(entry));
  }

  function entry({ id, device, address, created_at, used_at, current }) {
    const what = current
      ? h("span", { class: "tag" }, "This one")
      : action("End", report, () => api.delete(`sessions/${id}`).then(show), {
          "aria-label": `End the session of ${device}`,
        });
    const facts = [address, " · since ", moment(created_at), " · used ", moment(used_at)];
    return h(
      "li",
      {},
      h("div", {}, h("strong", {}, device), h("p", { class: "hint" }, ...facts)),
      what,
    );
  }

  show().catch(report);
  const others = action("End all others", report, () => api.delete("sessions").then(show));
  return part("Sessions", list, others);
}
