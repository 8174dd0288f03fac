import { h } from "../core/dom.js";

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** One line about the last time that the connection was gone: since when, and what came of it. */
export class Outage {
  #ready = false; // before all was there once, nothing can be missed
  #began = null; // what is said of the beginning, while it lasts
  #missed = 0;
  element = h("p", { class: "outage", role: "status" });

  get lasts() {
    return this.#began !== null;
  }

  /** The connection is gone; `cut` where somebody here wanted it so. */
  begin(cut) {
    if (this.lasts || !this.#ready) return;
    this.#began = `Connection ${cut ? "cut" : "lost"} at ${clock.format(new Date())}`;
    this.#missed = 0;
    this.#say(this.#began);
  }

  /** So many posts came that had been missed. */
  delivered(posts) {
    this.#missed += posts;
  }

  /** Nothing is missing any more; where not `recovered`, because all was read anew. */
  end(recovered) {
    this.#ready = true;
    if (!this.lasts) return;
    this.#say(`${this.#began} · ${recovered ? this.#outcome() : READ_ANEW}`);
    this.#began = null;
  }

  #outcome() {
    if (this.#missed === 0) return "no posts missed";
    if (this.#missed === 1) return "1 post missed, delivered on reconnection, once";
    return `${this.#missed} posts missed, delivered on reconnection, each once`;
  }

  #say(text) {
    this.element.replaceChildren(text);
  }
}

const READ_ANEW = "what was missed is no longer in the log, so the posts were read anew";
