import { h } from "../core/dom.js";

/** Who has the room open right now: one entry for each person, however many connections. */
export class Presence {
  #me;
  #ask;
  #here = new Map(); // connection -> { id, name }; of a crowd not all of them
  #list = h("ul");

  /** `ask()` asks the service who is here: { members, count }. */
  constructor(me, ask) {
    this.#me = me;
    this.#ask = ask;
    const heading = h("h3", { id: "here-now" }, "Here now");
    const attributes = { class: "here", "aria-labelledby": heading.id };
    this.element = h("section", attributes, heading, this.#list);
  }

  /** Takes the whole list from the service. A connection that is lost meanwhile has us ask again. */
  async load() {
    const { members, count } = await this.#ask();
    this.#here = new Map(members.map(({ connection, info }) => [connection, info]));
    this.#show(count);
  }

  /** Takes a change over; of a crowd only the number is told. */
  async changed({ joined, left, count }) {
    if (!joined || !left) return this.load();
    for (const { connection, info } of joined) this.#here.set(connection, info);
    for (const connection of left) this.#here.delete(connection);
    this.#show(count);
  }

  /** Without a connection nobody knows who is here. */
  forget() {
    this.#here.clear();
    this.#list.replaceChildren(h("li", { class: "muted" }, "Unknown without a connection"));
  }

  #show(count) {
    const people = new Map();
    for (const { id, name } of this.#here.values()) {
      people.set(id, { id, name, connections: (people.get(id)?.connections ?? 0) + 1 });
    }
    const named = [...people.values()].sort((a, b) => a.name.localeCompare(b.name));
    const others = count - this.#here.size;
    this.#list.replaceChildren(...named.map((person) => this.#row(person)));
    if (others > 0) this.#list.append(h("li", { class: "muted" }, `and ${others} more connections`));
  }

  #row({ id, name, connections }) {
    const you = id === this.#me.id && h("span", { class: "muted" }, " (you)");
    const several = connections > 1 && h("span", { class: "muted" }, `${connections} connections`);
    return h("li", {}, h("span", {}, name, you), several);
  }
}
