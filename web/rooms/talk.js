import { api } from "../core/api.js";
import { h } from "../core/dom.js";
import { LiveSocket } from "../core/socket.js";
import { Composer } from "./composer.js";
import { Outage } from "./outage.js";
import { Presence } from "./presence.js";
import { Status } from "./status.js";
import { Timeline } from "./timeline.js";

const PAGE = 50;

/** What is said in a room: the posts, the connection that brings them, and the box to write in. */
export class Talk {
  #path;
  #user;
  #report;
  #onChange;
  #socket;
  #status;
  #outage = new Outage();
  #timeline;
  #composer;
  #presence;

  /** `onChange()` is called when the room or its members may have changed. */
  constructor(path, { user, report }, onChange) {
    this.#path = path;
    this.#user = user;
    this.#report = report;
    this.#onChange = onChange;
    this.#socket = new LiveSocket(`${path}/ws`, () => this.#read());
    this.#status = new Status(() => this.#socket.cut(), () => this.#socket.retryNow());
    this.#timeline = new Timeline(user, () => this.#readEarlier());
    this.#composer = new Composer((text) => this.#post(text), report);
    this.#presence = new Presence(user, () => this.#socket.request("presence"));
    this.element = h("div", { class: "talk" }, this.#status.element, this.#outage.element);
    this.element.append(this.#timeline.element, this.#composer.element);
    this.#socket.addEventListener("status", ({ detail }) => this.#changed(detail));
    this.#socket.addEventListener("frame", ({ detail }) => this.#heard(detail));
    this.#socket.addEventListener("caughtup", ({ detail }) => this.#caughtUp(detail));
    this.#socket.addEventListener("problem", ({ detail }) => report(detail));
  }

  /** Who is here, to be put beside it. */
  get presence() {
    return this.#presence.element;
  }

  get live() {
    return this.#socket.live;
  }

  open() {
    this.#socket.open();
  }

  close() {
    this.#socket.close();
    this.#status.close();
  }

  /** The room takes no more posts. */
  archive() {
    this.#composer.close();
  }

  async #post(text) {
    const posted = await this.#socket.request("post", { text }, { once: true });
    this.#timeline.add([posted], { live: true });
  }

  #changed(status) {
    const { state, problem } = status;
    this.#status.show(status);
    this.#composer.live = state === "live";
    if (state === "live") {
      this.#status.at(this.#socket.position);
      this.#presence.load().catch(() => {}); // the next connection asks again
      return;
    }
    this.#presence.forget();
    this.#outage.begin(state === "cut");
    if (state === "stopped") {
      this.#report(problem);
      this.#onChange();
    }
  }

  #caughtUp({ recovered }) {
    this.#outage.end(recovered);
    this.#onChange();
  }

  #heard({ type, data, missed }) {
    this.#status.at(this.#socket.position);
    if (type === "presence.changed") return this.#presence.changed(data).catch(() => {});
    if (type === "posted") return this.#posted(data, missed && this.#outage.lasts);
    if (type === "archived") this.#timeline.note(`${data.by.name} archived the room.`);
    if (type === "member_joined") this.#timeline.note(`${data.member.name} joined.`);
    if (type === "member_left") this.#timeline.note(`${data.member.name} left.`);
    // Of one's own leaving the end of the connection tells, and why.
    const own = type === "member_left" && data.member.id === this.#user.id;
    if (!own && !missed) this.#onChange();
  }

  /** A reader is told how many were missed, and not read them all. */
  #posted(post, missed) {
    const fresh = this.#timeline.add([post], { live: !missed, missed });
    if (missed) this.#outage.delivered(fresh);
  }

  /** Shows the newest posts in place of whatever is shown; resolves to where they are true. */
  async #read() {
    const { items, next, epoch, offset } = await this.#history();
    this.#timeline.clear();
    this.#timeline.add(items);
    this.#timeline.more = next !== null;
    return { epoch, offset };
  }

  async #readEarlier() {
    try {
      const { items, next } = await this.#history({ before: this.#timeline.oldest });
      this.#timeline.add(items);
      this.#timeline.more = next !== null;
    } catch (problem) {
      this.#report(problem);
    }
  }

  #history(where = {}) {
    return api.get(`${this.#path}/posts?${new URLSearchParams({ limit: PAGE, ...where })}`);
  }
}
