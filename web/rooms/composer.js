import { h } from "../core/dom.js";
import { onSubmit } from "../core/form.js";
import { Unanswered } from "../core/problem.js";

/**
 * The box to write in, and what the service has not acknowledged yet. No text is lost: what is
 * refused goes back into the box, and what went out when the connection broke stays in sight
 * until the history shows whether it arrived.
 */
export class Composer {
  #send;
  #newest = 0; // the newest post of one's own
  #pending = h("ul", { class: "pending", "aria-label": "Not acknowledged yet" });
  #text = h("textarea", { id: "post-text", name: "text", rows: "2", "aria-label": "Your post" });
  #button = h("button", { type: "submit" }, "Post");

  /** `send(text)` resolves when the service has acknowledged the post. */
  constructor(send) {
    this.#send = send;
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

  /** A post of one's own is in the room: if its answer was lost, it is settled now. */
  arrived({ id, text }) {
    const settled = (row) => row.dataset.after < id && row.firstElementChild.textContent === text;
    [...this.#pending.children].find(settled)?.remove();
    this.#newest = Math.max(this.#newest, id);
  }

  async #post() {
    const text = this.#text.value;
    const row = this.#show(text);
    this.#text.value = "";
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
    const state = h("span", { class: "state" }, "Sending…");
    const row = h("li", { "data-after": this.#newest }, h("p", { class: "text" }, text), state);
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
