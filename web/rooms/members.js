import { api } from "../core/api.js";
import { h } from "../core/dom.js";

/** Whose room it is, here or not; its owner may remove the others. */
export class Members {
  #room;
  #me;
  #report;
  #list = h("ul");
  #more = h("button", { class: "quiet small", type: "button", hidden: true }, "More people");
  #next = null;

  constructor(room, me, report) {
    this.#room = room;
    this.#me = me;
    this.#report = report;
    this.#more.addEventListener("click", () => this.#show(this.#next).catch(report));
    const heading = h("h3", { id: "members" }, "Members");
    const attributes = { class: "members", "aria-labelledby": heading.id };
    this.element = h("section", attributes, heading, this.#list, this.#more);
  }

  /** Reads the list again, from its beginning. */
  load() {
    return this.#show(null);
  }

  async #show(after) {
    const query = new URLSearchParams({ limit: 100, ...(after !== null && { after }) });
    const { items, next } = await api.get(`rooms/${this.#room.id}/members?${query}`);
    if (after === null) this.#list.replaceChildren();
    this.#list.append(...items.map((member) => this.#row(member)));
    this.#next = next;
    this.#more.hidden = next === null;
  }

  #row(member) {
    const owner = member.id === this.#room.owner.id;
    const note = [owner && "owner", member.id === this.#me.id && "you"].filter(Boolean).join(", ");
    const removable = this.#room.owner.id === this.#me.id && !owner;
    const name = h("span", {}, member.name, note && h("span", { class: "muted" }, ` (${note})`));
    return h("li", {}, name, removable && this.#removeButton(member));
  }

  #removeButton(member) {
    const remove = async () => {
      try {
        await api.delete(`rooms/${this.#room.id}/members/${member.id}`);
        await this.load();
      } catch (problem) {
        this.#report(problem);
      }
    };
    const label = `Remove ${member.name}`;
    const attributes = { class: "link", type: "button", "aria-label": label };
    return h("button", { ...attributes, on: { click: remove } }, "Remove");
  }
}
