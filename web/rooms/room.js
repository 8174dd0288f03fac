import { api } from "../core/api.js";
import { focusOn, h } from "../core/dom.js";
import { LiveSocket } from "../core/socket.js";
import { Composer } from "./composer.js";
import { Members } from "./members.js";
import { Status } from "./status.js";
import { Timeline } from "./timeline.js";

const PAGE = 50;

/** One open room: its posts as they come, its members, and what one may do in it. */
export class RoomView {
  #path;
  #context;
  #onChange;
  #room = null;
  #socket = null;
  #status = null;
  #timeline = null;
  #members = null;
  #composer = null;
  #caughtUpTo = 0; // every post up to this id is shown
  #complete = false; // whether nothing is missing between #caughtUpTo and the next live post
  #catchUps = 0;
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
    this.#hangUp();
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
    this.#socket.close();
    try {
      await api.delete(`${this.#path}/members/me`);
    } catch (problem) {
      this.#socket.open();
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
    if (this.#room.archived) this.#composer?.close();
    if (this.#room.member && !before.member) this.#goLive();
    if (!this.#room.member && before.member) {
      this.#hangUp();
      this.#body.replaceChildren(outside(this.#room));
    }
    this.#onChange();
  }

  // --- Live -------------------------------------------------------------------------------------

  #goLive() {
    const { user, report } = this.#context;
    this.#caughtUpTo = 0;
    this.#socket = new LiveSocket(`${this.#path}/ws`);
    this.#status = new Status(() => this.#socket.retryNow());
    this.#timeline = new Timeline(user, () => this.#loadEarlier());
    this.#members = new Members(this.#room, user, report);
    this.#composer = new Composer((text) => this.#post(text));
    if (this.#room.archived) this.#composer.close();
    const talk = h("div", { class: "talk" }, this.#status.element);
    talk.append(this.#timeline.element, this.#composer.element);
    this.#body.replaceChildren(talk, this.#members.element);
    this.#socket.addEventListener("status", ({ detail }) => this.#changed(detail));
    this.#socket.addEventListener("frame", ({ detail }) => this.#heard(detail));
    this.#socket.addEventListener("problem", ({ detail }) => report(detail));
    this.#socket.open();
  }

  #hangUp() {
    this.#socket?.close();
    this.#status?.close();
  }

  async #post(text) {
    this.#arrived([await this.#socket.request("post", { text })]);
  }

  async #changed(status) {
    this.#status.show(status);
    this.#complete = false;
    if (status.state === "live") await this.#catchUp();
    if (status.state === "stopped") {
      this.#context.report(status.problem);
      await this.#refresh();
    }
  }

  #heard({ type, data }) {
    if (type === "posted") this.#arrived([data]);
    if (type === "archived") this.#timeline.note(`${data.by.name} archived the room.`);
    if (type === "member_joined") this.#timeline.note(`${data.member.name} joined.`);
    if (type === "member_left") this.#timeline.note(`${data.member.name} left.`);
    // Of one's own leaving the end of the connection tells, and why.
    const own = type === "member_left" && data.member.id === this.#context.user.id;
    if (type !== "posted" && !own) this.#refresh();
  }

  async #refresh() {
    try {
      await this.#reload();
      if (this.#room.member) await this.#members.load();
    } catch (problem) {
      this.#complain(problem);
    }
  }

  /** Reports what went wrong in the background, unless nobody is in the room any more. */
  #complain(problem) {
    const left = problem.code === "rooms.not_a_member" && !this.#socket.live;
    if (!left && !this.#closed) this.#context.report(problem);
  }

  /** Shows posts, from wherever they came; a post that is there already is not shown again. */
  #arrived(posts, live = true) {
    this.#timeline.add(posts, { live });
    for (const post of posts) {
      if (post.author.id === this.#context.user.id) this.#composer.arrived(post);
      if (live && this.#complete) this.#caughtUpTo = Math.max(this.#caughtUpTo, post.id);
    }
  }

  /**
   * Fetches what was posted while nobody listened. The socket is live before the history is read,
   * so that nothing falls between the two.
   */
  async #catchUp() {
    this.#catchUps += 1;
    const run = this.#catchUps;
    try {
      const newest = await this.#readBack();
      this.#caughtUpTo = Math.max(this.#caughtUpTo, newest);
      if (run === this.#catchUps) this.#complete = this.#socket.live;
      this.#timeline.gap = null;
    } catch (problem) {
      if (this.#closed) return;
      this.#timeline.gap = () => this.#catchUp();
      this.#complain(problem);
    }
    await this.#refresh();
  }

  /** Reads pages from the newest post back to those that are shown; returns the newest id. */
  async #readBack() {
    const known = this.#caughtUpTo;
    let [before, newest] = [null, known];
    do {
      const { items, next } = await this.#history(before);
      this.#arrived(items, false);
      newest = Math.max(newest, ...items.map(({ id }) => id));
      if (known === 0) this.#timeline.more = next !== null;
      before = items.some(({ id }) => id <= known) ? null : next;
    } while (before !== null && known !== 0);
    return newest;
  }

  async #loadEarlier() {
    try {
      const { items, next } = await this.#history(this.#timeline.oldest);
      this.#arrived(items, false);
      this.#timeline.more = next !== null;
    } catch (problem) {
      this.#context.report(problem);
    }
  }

  #history(before) {
    const query = new URLSearchParams({ limit: PAGE, ...(before !== null && { before }) });
    return api.get(`${this.#path}/posts?${query}`);
  }
}

function outside(room) {
  return h(
    "div",
    { class: "empty" },
    h("p", {}, `You are not a member of ${room.name}. Join to read and to post.`),
  );
}
