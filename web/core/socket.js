import { Backoff } from "./backoff.js";
import { address } from "./http.js";
import { Problem, Unanswered } from "./problem.js";
import { session } from "./session.js";

const WELCOME_WITHIN = 10_000;
const PING_EVERY = 20_000;
const PONG_WITHIN = 10_000;
const NOBODY_ANSWERED = 1006;
const TOKEN_REFUSED = 4401;
const POSITION_LOST = "realtime.position_lost";
const PASSING = [401, 408, 429]; // statuses that say nothing of the next attempt

/**
 * A channel of the service that stays connected and misses nothing: it keeps its position in the
 * topic and resumes there, waits longer after each failure, and lets the close code decide
 * whether trying again makes sense.
 *
 * Events:
 * - "status", whose detail is { state, retryAt, problem } with the state "connecting", "live",
 *   "waiting" (until retryAt), "cut" (until `retryNow`) or "stopped" (for good: the problem);
 * - "frame", whose detail is a broadcast, with `missed` where it makes up for a lost connection;
 * - "caughtup": nothing is missing any more. Its detail is { recovered }: whether all that was
 *   missed was delivered; where not, the state was read anew;
 * - "problem", whose detail is a Problem that answers no request.
 */
export class LiveSocket extends EventTarget {
  #path;
  #read;
  #socket = null;
  #attempt = null;
  #position = null; // { epoch, offset } of the last event that came
  #behind = true; // whether the state has to be read before events continue it
  #anew = false; // whether it was read since everything was last there
  #catchingUp = false;
  #backoff = new Backoff();
  #requests = new Map();
  #refs = 0;
  #retry = null;
  #watchdog = null;
  #reason = null; // the last error frame: it explains the close that follows it
  #refreshed = false;
  #state = "closed";
  #listening = null;

  /**
   * `read()` reads over REST the state that the channel's events continue, and resolves to the
   * { epoch, offset } at which it is true. A channel without a durable topic needs none.
   */
  constructor(path, read = async () => null) {
    super();
    this.#path = path;
    this.#read = read;
  }

  get live() {
    return this.#state === "live";
  }

  get position() {
    return this.#position;
  }

  open() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    session.addEventListener("refreshed", () => this.#passToken(), { signal });
    addEventListener("online", () => this.#state === "waiting" && this.#connect(), { signal });
    addEventListener("offline", () => this.#lost(), { signal });
    this.#connect();
  }

  /** Ends the connection and everything that would bring it back. */
  close() {
    this.#listening?.abort();
    this.#drop({ forGood: true });
    this.#state = "closed";
  }

  /** Lets go of the connection, as if the network had, until `retryNow`. */
  cut() {
    if (this.#state === "closed" || this.#state === "stopped") return;
    this.#drop();
    this.#tell("cut");
  }

  retryNow() {
    if (this.#state === "waiting" || this.#state === "cut") this.#connect();
  }

  /**
   * Sends a frame; resolves to the data of its reply, throws the Problem that answers it, or
   * Unanswered. With `once` a lost connection does not end it: it is sent again on the next one,
   * with the same key, and done once.
   */
  request(type, data = {}, { once = false } = {}) {
    if (!this.live) return Promise.reject(Problem.disconnected());
    this.#refs += 1;
    const ref = String(this.#refs);
    const frame = JSON.stringify({ type, ref, data, ...(once && { key: randomKey() }) });
    return new Promise((resolve, reject) => {
      this.#requests.set(ref, { frame, once, resolve, reject });
      this.#socket.send(frame);
    });
  }

  async #connect() {
    this.#drop();
    const attempt = {};
    this.#attempt = attempt;
    this.#tell("connecting");
    try {
      const { protocols } = await session.credentials();
      const position = this.#behind ? await this.#readAnew() : this.#position;
      if (attempt !== this.#attempt) return;
      this.#behind = false;
      this.#position = position;
      this.#dial(protocols);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (attempt === this.#attempt) this.#failed(problem);
    }
  }

  #dial(protocols) {
    const url = address(`api/v1/${this.#path}`);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.#position) {
      url.searchParams.set("epoch", this.#position.epoch);
      url.searchParams.set("after", this.#position.offset);
    }
    const socket = new WebSocket(url, protocols);
    const mine = (listener) => (event) => socket === this.#socket && listener(event);
    socket.addEventListener("message", mine((event) => this.#received(JSON.parse(event.data))));
    socket.addEventListener("close", mine((event) => this.#closed(event)));
    this.#socket = socket;
    this.#watchdog = setTimeout(() => this.#lost(), WELCOME_WITHIN);
  }

  #received(frame) {
    const request = this.#requests.get(frame.ref);
    this.#requests.delete(frame.ref);
    if (frame.type === "welcome") this.#welcomed(frame.data);
    else if (frame.type === "error") this.#refused(new Problem(frame.data), request);
    else if (request) request.resolve(frame.data);
    else this.#heard(frame);
  }

  #welcomed({ epoch, offset, recovered }) {
    this.#behind = recovered === false;
    if (!this.#behind) this.#backoff.reset(); // not on open: who is refused then must wait longer
    if (epoch !== undefined) this.#position = { epoch, offset };
    this.#reason = null;
    this.#refreshed = false;
    for (const { frame } of this.#requests.values()) this.#socket.send(frame);
    this.#tell("live");
    this.#listen();
    this.#catchUp();
  }

  /** What was missed comes before the answer to the first ping; what is gone is read anew. */
  async #catchUp() {
    const socket = this.#socket;
    this.#catchingUp = true;
    try {
      await (this.#behind ? this.#readAnew() : this.request("ping"));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (socket === this.#socket) this.#failed(problem);
      return;
    }
    if (socket !== this.#socket) return;
    const recovered = !this.#anew;
    this.#catchingUp = this.#behind = this.#anew = false;
    this.dispatchEvent(new CustomEvent("caughtup", { detail: { recovered } }));
  }

  #readAnew() {
    this.#anew = true;
    return this.#read();
  }

  #heard(frame) {
    if (frame.offset !== undefined) {
      if (frame.offset <= this.#position.offset) return;
      this.#position = { ...this.#position, offset: frame.offset };
    }
    const missed = this.#catchingUp && !this.#anew;
    this.dispatchEvent(new CustomEvent("frame", { detail: { ...frame, missed } }));
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
    return this.#failed(problem, code - 4000);
  }

  /** Tries again later, unless the status says that it would always be refused. */
  #failed(problem, status = problem.status) {
    this.#drop();
    if (problem.code === POSITION_LOST) this.#behind = true;
    else if (status >= 400 && status < 500 && !PASSING.includes(status)) return this.#stop(problem);
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
      const { token } = await session.credentials();
      if (token) await this.request("auth.refresh", { token });
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
    this.#retry = setTimeout(() => this.#connect(), delay);
    this.#tell("waiting", { problem, retryAt: Date.now() + delay });
  }

  #stop(problem) {
    this.#listening?.abort();
    this.#drop({ forGood: true });
    this.#tell("stopped", { problem });
  }

  /** Lets go of the socket without waiting for it; who still waits for a reply is told. */
  #drop({ forGood = false } = {}) {
    clearTimeout(this.#retry);
    clearTimeout(this.#watchdog);
    this.#attempt = this.#reason = null;
    this.#socket?.close();
    this.#socket = null;
    for (const [ref, { once, reject }] of [...this.#requests]) {
      if (once && !forGood) continue;
      this.#requests.delete(ref);
      reject(new Unanswered());
    }
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

/** Not crypto.randomUUID, which is missing where a page came over plain HTTP. */
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
