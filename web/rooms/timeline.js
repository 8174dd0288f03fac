import { h } from "../core/dom.js";

const TOGETHER = 5 * 60_000; // posts of one author within this time share a heading
const MARKED = 15_000; // how long a post is marked that was delivered late
const LATE = "Posted while this page had no connection, delivered when it was back";
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

/**
 * The posts of a room in their order. The same post may come several times (the reply, the
 * broadcast, the history after a reconnection): it is shown once, at its place.
 */
export class Timeline {
  #me;
  #following = true; // whether the newest post is in sight, and so should the next one be
  #top = 0; // how far it is scrolled
  #rows = new Map(); // post id -> its <li>
  #posts = new Map();
  #list = h("ol", { class: "posts" });
  #scroller = h("div", { class: "timeline", tabindex: "0", role: "log", "aria-label": "Posts" });
  #jump = h("button", { class: "jump small", type: "button", hidden: true }, "New posts below");
  #earlier = h("button", { class: "quiet small", type: "button", hidden: true }, "Load earlier");

  constructor(me, onEarlier) {
    this.#me = me;
    this.#earlier.addEventListener("click", onEarlier);
    this.#jump.addEventListener("click", () => this.#toEnd());
    this.#scroller.append(this.#earlier, this.#list);
    this.#scroller.addEventListener("scroll", () => this.#scrolled());
    // A phone's keyboard takes half of the room: stay at the newest post.
    new ResizeObserver(() => this.#following && this.#toEnd()).observe(this.#scroller);
    this.element = h("div", { class: "timeline-frame" }, this.#scroller, this.#jump);
  }

  get oldest() {
    return this.#list.querySelector("[data-id]")?.dataset.id ?? null;
  }

  /** Whether there are posts before the oldest one shown. */
  set more(more) {
    this.#earlier.hidden = !more;
  }

  /** Takes everything away, for posts that are read anew. */
  clear() {
    this.#rows.clear();
    this.#posts.clear();
    this.#list.replaceChildren();
    this.#following = true;
  }

  /**
   * Puts posts at their place; returns how many are new. Only `live` ones are read out by a screen
   * reader, and those that were `missed` are marked for a while.
   */
  add(posts, { live = false, missed = false } = {}) {
    const fresh = posts.filter(({ id }) => !this.#rows.has(id));
    const bottom = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    const older = this.oldest !== null && fresh.some(({ id }) => id < Number(this.oldest));
    this.#list.setAttribute("aria-live", live ? "polite" : "off");
    for (const post of fresh) this.#place(post);
    if (missed) for (const { id } of fresh) markLate(this.#rows.get(id));
    if (older) this.#scroller.scrollTop = this.#scroller.scrollHeight - bottom;
    else if (this.#following) this.#toEnd();
    else if (fresh.length > 0) this.#jump.hidden = false;
    return fresh.length;
  }

  /** A line about the room itself, such as who came; it is not part of the history. */
  note(text) {
    this.#list.setAttribute("aria-live", "polite");
    this.#list.append(h("li", { class: "note" }, text));
    if (this.#following) this.#toEnd();
  }

  #place(post) {
    const row = this.#row(post);
    const next = this.#after(post.id);
    this.#list.insertBefore(row, next);
    this.#rows.set(post.id, row);
    this.#posts.set(post.id, post);
    this.#group(row);
    if (next) this.#group(next);
  }

  /** The first post after one of this id, looked for from the end, where most belong. */
  #after(id) {
    let next = null;
    for (let row = this.#list.lastElementChild; row; row = row.previousElementSibling) {
      if (Number(row.dataset.id) < id) break;
      if (row.dataset.id !== undefined) next = row;
    }
    return next;
  }

  #row({ id, author, text, posted_at }) {
    const own = author.id === this.#me.id;
    const at = new Date(posted_at);
    return h(
      "li",
      { class: own ? "post own" : "post", "data-id": id },
      h("p", { class: "author" }, author.name, own && h("span", { class: "you" }, " (you)")),
      h("p", { class: "text" }, text),
      h("time", { datetime: posted_at, title: at.toLocaleString() }, clock.format(at)),
    );
  }

  /** Says the day and the author only where they change. */
  #group(row) {
    const post = this.#posts.get(Number(row.dataset.id));
    let above = row.previousElementSibling;
    const follows = above?.dataset.id !== undefined;
    while (above && above.dataset.id === undefined) above = above.previousElementSibling;
    const before = above && this.#posts.get(Number(above.dataset.id));
    const at = new Date(post.posted_at);
    const gap = before ? at - new Date(before.posted_at) : Infinity;
    const sameDay = Boolean(before) && day.format(new Date(before.posted_at)) === day.format(at);
    const sameAuthor = follows && before.author.id === post.author.id;
    row.classList.toggle("continued", sameAuthor && gap < TOGETHER && sameDay);
    if (sameDay) delete row.dataset.day;
    else row.dataset.day = day.format(at);
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    const atEnd = scrollHeight - scrollTop - clientHeight < 40;
    // Only who scrolls up leaves the end; a room that shrinks, or a post that comes, does not.
    if (atEnd || scrollTop < this.#top) this.#following = atEnd;
    this.#top = scrollTop;
    if (this.#following) this.#jump.hidden = true;
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#jump.hidden = true;
  }
}

/** Says in words, and for a while, that a post came late; its time is in sight again after that. */
function markLate(row) {
  const mark = h("span", { class: "late", title: LATE }, "missed");
  row.append(mark);
  row.classList.add("missed");
  setTimeout(() => {
    mark.remove();
    row.classList.remove("missed");
  }, MARKED);
}
