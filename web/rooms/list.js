import { api } from "../core/api.js";
import { h } from "../core/dom.js";
import { onSubmit } from "../core/form.js";

const PAGE = 50;

/** The rooms there are, newest first, and the form that creates one. */
export class RoomList {
  #context;
  #rows = new Map(); // room id -> its <li>
  #selected = "";
  #next = null;
  #items = h("ul", { class: "room-list" });
  #none = h("p", { class: "muted", hidden: true }, "No rooms yet. Create the first.");
  #more = h("button", { class: "quiet small", type: "button", hidden: true }, "More rooms");
  #focused = () => this.reload();

  constructor(context) {
    this.#context = context;
    this.#more.addEventListener("click", () => this.#load(this.#next));
    addEventListener("focus", this.#focused); // rooms made in another window show up on return
    this.element = h(
      "nav",
      { class: "rooms-nav", "aria-label": "Rooms" },
      h("h1", {}, "Rooms"),
      this.#form(),
      this.#none,
      this.#items,
      this.#more,
    );
  }

  /** Reads the first page again; the rows that are there stay in place. */
  async reload() {
    await this.#load(null);
  }

  /** Marks the room that is open. */
  select(id) {
    this.#selected = id;
    for (const [each, row] of this.#rows) mark(row, String(each) === id);
  }

  close() {
    removeEventListener("focus", this.#focused);
  }

  #form() {
    const form = h(
      "form",
      { class: "new-room" },
      h("label", { for: "new-room-name" }, "New room"),
      h("input", { id: "new-room-name", name: "name", autocomplete: "off", required: true }),
      h("button", { type: "submit" }, "Create"),
    );
    return onSubmit(form, async (draft) => {
      const room = await api.post("rooms", draft);
      form.reset();
      this.#context.go(room.id);
      await this.reload();
    });
  }

  async #load(after) {
    const query = new URLSearchParams({ limit: PAGE, ...(after !== null && { after }) });
    try {
      const { items, next } = await api.get(`rooms?${query}`);
      this.#merge(items, after === null);
      if (after !== null || this.#rows.size <= PAGE) this.#next = next;
    } catch (problem) {
      this.#context.report(problem);
    }
    this.#none.hidden = this.#rows.size > 0;
    this.#more.hidden = this.#next === null;
  }

  /** Rows never move, only new ones come: nothing jumps under the pointer. */
  #merge(rooms, onTop) {
    const first = onTop ? this.#items.firstElementChild : null;
    for (const room of rooms) {
      const row = this.#rows.get(room.id) ?? h("li");
      const fresh = link(room);
      if (fresh.textContent !== row.textContent) row.replaceChildren(fresh); // or keep the focus
      mark(row, String(room.id) === this.#selected);
      if (!this.#rows.has(room.id)) this.#items.insertBefore(row, first);
      this.#rows.set(room.id, row);
    }
  }
}

function link(room) {
  const people = `${room.members} ${room.members === 1 ? "person" : "people"}`;
  const facts = [people, room.member && "joined", room.archived && "archived"].filter(Boolean);
  return h(
    "a",
    { href: `#rooms/${room.id}` },
    h("span", { class: "room-name" }, room.name),
    h("span", { class: "room-facts" }, facts.join(", ")),
  );
}

function mark(row, selected) {
  if (selected) row.firstElementChild.setAttribute("aria-current", "true");
  else row.firstElementChild.removeAttribute("aria-current");
}
