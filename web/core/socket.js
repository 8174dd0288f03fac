import { Backoff } from "./backoff.js";
import { address } from "./http.js";
import { Problem, Unanswered } from "./problem.js";
import { session } from "./session.js";

const WELCOME_WITHIN = 10_000;
const PING_EVERY = 20_000;
const PONG_WITHIN = 10_000;
const NOBODY_ANSWERED = 1006;
const TOKEN_REFUSED = 4401;
const TOO_MANY = 4429;

/**
 * A channel of the service that stays connected: it says where it stands, waits longer after each
 * failure, and lets the close code decide whether trying again makes sense.
 *
 * Events: "status", whose detail is { state, retryAt, problem } with the state "connecting",
 * "live", "waiting" (until retryAt) or "stopped" (for good, because of problem); "frame", whose
 * detail is a broadcast; "problem", whose detail is a Problem that answers no request.
 */
export class LiveSocket extends EventTarget {
  #path;
  #socket = null;
  #backoff = new Backoff();
  #requests = new Map();
  #refs = 0;
  #retry = null;
  #watchdog = null;
  #reason = null; // the last error frame: it explains the close that follows it
  #refreshed = false;
  #state = "closed";
  #listening = null;

  constructor(path) {
    super();
    this.#path = path;
  }

  get live() {
    return this.#state === "live";
  }

  open() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    session.addEventListener("refreshed", () => this.#passToken(), { signal });
    addEventListener("online", () => this.retryNow(), { signal });
    addEventListener("offline", () => this.#lost(), { signal });
    this.#connect();
  }

  /** Ends the connection and everything that would bring it back. */
  close() {
    this.#listening?.abort();
    this.#drop();
    this.#state = "closed";
  }

  retryNow() {
    if (this.#state === "waiting") this.#connect();
  }

  /** Sends a frame; resolves to the data of its reply, throws the Problem that answers it. */
  request(type, data = {}) {
    if (!this.live) return Promise.reject(Problem.disconnected());
    this.#refs += 1;
    const ref = String(this.#refs);
    return new Promise((resolve, reject) => {
      this.#requests.set(ref, { resolve, reject });
      this.#socket.send(JSON.stringify({ type, ref, data }));
    });
  }

  async #connect() {
    this.#drop();
    this.#tell("connecting");
    let token;
    try {
      token = await session.token();
    } catch (problem) {
      return this.#wait(problem);
    }
    if (this.#state !== "connecting" || this.#socket) return;
    const url = address(`api/v1/${this.#path}`);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, ["bearer", token]);
    const mine = (listener) => (event) => socket === this.#socket && listener(event);
    socket.addEventListener("message", mine((event) => this.#received(JSON.parse(event.data))));
    socket.addEventListener("close", mine((event) => this.#closed(event)));
    this.#socket = socket;
    this.#watchdog = setTimeout(() => this.#lost(), WELCOME_WITHIN);
  }

  #received(frame) {
    const request = this.#requests.get(frame.ref);
    this.#requests.delete(frame.ref);
    if (frame.type === "welcome") this.#welcomed();
    else if (frame.type === "error") this.#refused(new Problem(frame.data), request);
    else if (request) request.resolve(frame.data);
    else this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
  }

  #welcomed() {
    this.#backoff.reset(); // not on open: a socket that opens and is refused must wait longer
    this.#reason = null;
    this.#refreshed = false;
    this.#tell("live");
    this.#listen();
  }

  #refused(problem, request) {
    if (request) return request.reject(problem);
    this.#reason = problem;
    if (this.live && problem.status !== 401) this.#report(problem);
  }

  #closed({ code, reason }) {
    const problem = this.#reason ?? closedBy(code, reason);
    this.#drop();
    if (code === TOKEN_REFUSED) return this.#renewToken(problem);
    if (code >= 4000 && code < 4500 && code !== TOO_MANY) return this.#stop(problem);
    return this.#wait(problem);
  }

  async #renewToken(problem) {
    if (this.#refreshed) return session.end([problem]);
    this.#refreshed = true;
    this.#tell("connecting", { problem });
    try {
      await session.refresh(problem);
    } catch (refusal) {
      return this.#wait(refusal);
    }
    if (this.#state === "connecting") this.#connect();
  }

  async #passToken() {
    if (!this.live) return;
    try {
      await this.request("auth.refresh", { token: await session.token() });
    } catch (problem) {
      if (this.live) this.#report(problem);
    }
  }

  /** Pings a quiet connection: a network that went away closes no socket. */
  #listen() {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => {
      this.#watchdog = setTimeout(() => this.#lost(), PONG_WITHIN);
      this.request("ping").then(() => this.#listen(), () => {});
    }, PING_EVERY);
  }

  #lost() {
    if (!this.#socket) return;
    this.#drop();
    this.#wait(Problem.unreachable());
  }

  #wait(problem) {
    if (this.#state === "closed" || !session.user) return;
    const delay = this.#backoff.next((problem.retryAfter ?? 0) * 1000);
    this.#reason = null;
    this.#retry = setTimeout(() => this.#connect(), delay);
    this.#tell("waiting", { problem, retryAt: Date.now() + delay });
  }

  #stop(problem) {
    this.#listening?.abort();
    this.#tell("stopped", { problem });
  }

  /** Lets go of the socket without waiting for it; who still waits for a reply is told. */
  #drop() {
    clearTimeout(this.#retry);
    clearTimeout(this.#watchdog);
    this.#socket?.close();
    this.#socket = null;
    const unanswered = [...this.#requests.values()];
    this.#requests.clear();
    for (const { reject } of unanswered) reject(new Unanswered());
  }

  #tell(state, { problem = null, retryAt = null } = {}) {
    this.#state = state;
    this.dispatchEvent(new CustomEvent("status", { detail: { state, problem, retryAt } }));
  }

  #report(problem) {
    this.dispatchEvent(new CustomEvent("problem", { detail: problem }));
  }
}

/** A close that no error frame explained. */
function closedBy(code, reason) {
  if (code === NOBODY_ANSWERED) return Problem.unreachable();
  return new Problem({
    title: "The connection was closed.",
    detail: `The close code was ${code}.`,
    code: reason || null,
  });
}
