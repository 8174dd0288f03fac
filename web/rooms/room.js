import { api } from "../core/api.js";
import { focusOn, h } from "../core/dom.js";
import { Members } from "./members.js";
import { Talk } from "./talk.js";

/** One open room: what is said in it, who is there, and what one may do in it. */
export class RoomView {
  #path;
  #context;
  #onChange;
  #room = null;
  #talk = null;
  #members = null;
  #reloads = 0;
  #closed = false;
  #heading = h("h2");
  #facts = h("p", { class: "muted" });
  #actions = h("div", { class: "actions" });
  #body = h("div", { class: "room-body" });

  /** `onChange()` is called when what the list of rooms says of this one may be out of date. */
  constructor(id, context, onChange) {
    this.id = id;
    this.#path = `rooms/${encodeURIComponent(id)}`;
    this.#context = context;
    this.#onChange = onChange;
    const back = h("a", { class: "back", href: "#rooms/" }, "All rooms");
    const titles = h("div", {}, this.#heading, this.#facts);
    this.element = h(
      "article",
      { class: "room" },
      h("header", { class: "room-header" }, back, titles, this.#actions),
      this.#body,
    );
  }

  /** Reads the room; a member goes live, anybody else may join. */
  async open() {
    try {
      this.#room = await api.get(this.#path);
    } catch (problem) {
      this.#heading.textContent = problem.title;
      this.#context.report(problem);
      return;
    }
    if (this.#closed) return;
    this.#describe();
    focusOn(this.#heading);
    if (this.#room.member) this.#goLive();
    else this.#body.replaceChildren(outside(this.#room));
  }

  close() {
    this.#closed = true;
    this.#talk?.close();
  }

  // --- What may be done -------------------------------------------------------------------------

  #describe() {
    const { name, owner, members, member, archived } = this.#room;
    const own = owner.id === this.#context.user.id;
    this.#heading.textContent = name;
    this.#facts.textContent = [
      own ? "Yours" : `${owner.name}’s room`,
      `${members} ${members === 1 ? "person" : "people"}`,
      archived && "archived, read-only",
    ].filter(Boolean).join(" · ");
    const can = [];
    if (!member) can.push(this.#action("Join", "", () => api.put(`${this.#path}/members/me`)));
    if (own && !archived) can.push(this.#action("Archive", "quiet", () => this.#archive()));
    if (member && !own) can.push(this.#action("Leave", "quiet", () => this.#leave()));
    const labels = (buttons) => Array.from(buttons, (each) => each.textContent).join();
    if (labels(can) === labels(this.#actions.children)) return; // one of them may have the focus
    this.#actions.replaceChildren(...can);
  }

  #action(label, kind, act) {
    const run = async () => {
      button.disabled = true;
      try {
        await act();
        await this.#reload();
      } catch (problem) {
        this.#context.report(problem);
      } finally {
        button.disabled = false;
        if (!button.isConnected) focusOn(this.#heading);
      }
    };
    const attributes = { class: `${kind} small`, type: "button", on: { click: run } };
    const button = h("button", attributes, label);
    return button;
  }

  #archive() {
    return api.post(`${this.#path}/archive`);
  }

  /** Hangs up first: the service closes the socket of whoever leaves, with an error. */
  async #leave() {
    this.#talk.close();
    try {
      await api.delete(`${this.#path}/members/me`);
    } catch (problem) {
      this.#talk.open();
      throw problem;
    }
  }

  /** Takes over what changed: who joined goes live, who left is outside. */
  async #reload() {
    this.#reloads += 1;
    const run = this.#reloads;
    const room = await api.get(this.#path);
    if (this.#closed || run !== this.#reloads) return; // a later question has the newer answer
    const before = this.#room;
    this.#room = room;
    this.#describe();
    if (this.#room.archived) this.#talk?.archive();
    if (this.#room.member && !before.member) this.#goLive();
    if (!this.#room.member && before.member) {
      this.#talk.close();
      this.#body.replaceChildren(outside(this.#room));
    }
    this.#onChange();
  }

  #goLive() {
    const { user, report } = this.#context;
    this.#members = new Members(this.#room, user, report);
    this.#talk = new Talk(this.#path, this.#context, () => this.#refresh());
    if (this.#room.archived) this.#talk.archive();
    const people = h("aside", { class: "people", "aria-label": "People" });
    people.append(this.#talk.presence, this.#members.element);
    this.#body.replaceChildren(this.#talk.element, people);
    this.#talk.open();
  }

  async #refresh() {
    try {
      await this.#reload();
      if (this.#room.member) await this.#members.load();
    } catch (problem) {
      // What went wrong in the background is of no use to who is not in the room any more.
      const left = problem.code === "rooms.not_a_member" && !this.#talk.live;
      if (!left && !this.#closed) this.#context.report(problem);
    }
  }
}

function outside(room) {
  return h(
    "div",
    { class: "empty" },
    h("p", {}, `You are not a member of ${room.name}. Join to read and to post.`),
  );
}
