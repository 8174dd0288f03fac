import { h } from "../core/dom.js";

const SAYS = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Offline",
  stopped: "Disconnected",
};

/** Where the connection stands, in words, and when it will be tried again. */
export class Status {
  #state = h("span", { role: "status" });
  #countdown = h("span", { class: "countdown", "aria-hidden": "true" });
  #now = h("button", { class: "link", type: "button", hidden: true }, "Retry now");
  #clock = null;

  constructor(onRetry) {
    this.#now.addEventListener("click", onRetry);
    this.element = h("p", { class: "status" }, this.#state, this.#countdown, this.#now);
  }

  show({ state, problem, retryAt }) {
    clearInterval(this.#clock);
    this.element.dataset.state = state;
    this.#state.replaceChildren(SAYS[state], problem ? why(problem) : "");
    this.#now.hidden = state !== "waiting";
    this.#countdown.textContent = "";
    if (retryAt === null) return;
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
      this.#countdown.textContent = `retry in ${seconds} s`;
    };
    tick();
    this.#clock = setInterval(tick, 500);
  }

  close() {
    clearInterval(this.#clock);
  }
}

function why({ title, code }) {
  return h("span", { class: "why" }, code ? `: ${title} [${code}]` : `: ${title}`);
}
