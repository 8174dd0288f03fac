import { h } from "../core/dom.js";

const SAYS = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Offline",
  stopped: "Disconnected",
  cut: "Cut",
};
const OFFERS = { live: "Cut the connection", waiting: "Retry now", cut: "Reconnect" };

/** Where the connection stands, in words, what can be done about it, and how far it has come. */
export class Status {
  #state = h("span", { role: "status" });
  #countdown = h("span", { class: "countdown", "aria-hidden": "true" });
  #button = h("button", { class: "link", type: "button" }, OFFERS.live);
  #position = h("span", { class: "position" });
  #clock = null;

  /** `onCut()` is to end the connection, `onRetry()` to bring it back. */
  constructor(onCut, onRetry) {
    const act = { live: onCut, waiting: onRetry, cut: onRetry };
    this.#button.addEventListener("click", ({ detail }) => {
      // One button, which keeps the focus: the second of two quick clicks is not meant for what
      // it says by then.
      if (detail < 2) act[this.element.dataset.state]?.();
    });
    this.element = h("div", { class: "status" });
    this.element.append(this.#state, this.#countdown, this.#button, this.#position);
  }

  show({ state, problem, retryAt }) {
    clearInterval(this.#clock);
    this.element.dataset.state = state;
    this.#state.replaceChildren(SAYS[state], problem ? why(problem) : "");
    this.#offer(state);
    this.#countdown.textContent = "";
    if (retryAt === null) return;
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
      this.#countdown.textContent = `retry in ${seconds} s`;
    };
    tick();
    this.#clock = setInterval(tick, 500);
  }

  /** How far the room's topic has come here: what a reconnection resumes after. */
  at(position) {
    if (!position) return;
    const { epoch, offset } = position;
    const short = h("span", { class: "epoch" }, `epoch ${epoch.slice(0, 6)} · `);
    this.#position.replaceChildren(short, `offset ${offset}`);
    this.#position.title = `The connection resumes after this: ?epoch=${epoch}&after=${offset}`;
  }

  close() {
    clearInterval(this.#clock);
  }

  #offer(state) {
    this.#button.hidden = state === "stopped";
    if (OFFERS[state]) this.#button.replaceChildren(OFFERS[state]);
    if (OFFERS[state]) this.#button.removeAttribute("aria-disabled");
    else this.#button.setAttribute("aria-disabled", "true");
  }
}

function why({ title, code }) {
  return h("span", { class: "why" }, code ? `: ${title} [${code}]` : `: ${title}`);
}
