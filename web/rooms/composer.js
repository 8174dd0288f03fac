import { h } from "../core/dom.js";
import { onSubmit } from "../core/form.js";
import { Unanswered } from "../core/problem.js";

const SENDING = "Sending…";
const WAITING = "Not confirmed. It is sent again when the connection is back, and posted once.";

/**
 * The box to write in, and what the service has not acknowledged yet. No text is lost: what is
 * refused goes back into the box, and what went out when the connection broke stays in sight
 * until its answer comes over the next connection.
 */
export class Composer {
  #send;
  #report;
  #live = true;
  #release = null; // lets the form take the next post, though this one is not answered
  #pending = h("ul", { class: "pending", "aria-label": "Not acknowledged yet" });
  #text = h("textarea", { id: "post-text", name: "text", rows: "2", "aria-label": "Your post" });
  #button = h("button", { type: "submit" }, "Post");

  /**
   * `send(text)` resolves when the service has acknowledged the post. `report` is told a refusal
   * that comes when the form no longer waits for it.
   */
  constructor(send, report) {
    this.#send = send;
    this.#report = report;
    this.#text.addEventListener("keydown", (event) => this.#onKey(event));
    const hint = h("p", { class: "hint" }, "Enter posts, Shift+Enter starts a new line.");
    const box = h("div", { class: "box" }, this.#text);
    const form = h("form", { class: "composer" }, box, this.#button, hint);
    onSubmit(form, () => this.#post());
    this.element = h("div", { class: "writing" }, this.#pending, form);
  }

  /** An archived room takes no more posts; what was being written can still be copied. */
  close() {
    this.#text.readOnly = true;
    this.#button.disabled = true;
  }

  /** Whether there is a connection: what waits for its answer says what it waits for. */
  set live(live) {
    this.#live = live;
    if (!live) this.#release?.();
    for (const state of this.#pending.querySelectorAll(".sending")) {
      state.textContent = live ? SENDING : WAITING;
    }
  }

  #post() {
    const text = this.#text.value;
    const row = this.#show(text);
    this.#text.value = "";
    return new Promise((resolve, reject) => {
      let refuse = reject;
      this.#release = () => {
        refuse = this.#report;
        resolve();
      };
      this.#answer(row, text).then(resolve, (problem) => refuse(problem));
    });
  }

  async #answer(row, text) {
    try {
      await this.#send(text);
      row.remove();
    } catch (problem) {
      if (problem instanceof Unanswered) return this.#unsettled(row, text);
      row.remove();
      this.#restore(text);
      throw problem;
    }
  }

  #show(text) {
    const state = h("span", { class: "state sending" }, this.#live ? SENDING : WAITING);
    const row = h("li", {}, h("p", { class: "text" }, text), state);
    this.#pending.append(row);
    return row;
  }

  #unsettled(row, text) {
    const discard = () => row.remove();
    const again = () => {
      row.remove();
      this.#restore(text);
      this.#text.focus();
    };
    row.lastElementChild.replaceWith(
      h("span", { class: "state" }, "Not confirmed: the connection was lost."),
      h("button", { class: "link", type: "button", on: { click: again } }, "Edit and post again"),
      h("button", { class: "link", type: "button", on: { click: discard } }, "Discard"),
    );
  }

  #restore(text) {
    this.#text.value = [text, this.#text.value].filter(Boolean).join("\n");
  }

  #onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#text.form.requestSubmit();
  }
}
