import { Problem } from "./problem.js";

const KEY = "session";
const EARLIEST = 30_000; // renew this many milliseconds before it expires, or halfway
const RETRY = 5_000;
const LONGEST_TIMER = 2 ** 31 - 1; // setTimeout takes a longer time for zero

/**
 * Who this tab is signed in as, by one of the ways that the module of the sign-in offers.
 *
 * A way is an object with
 * - `name`, and `ofTab`: whether the session is this tab's alone. Its state lives in
 *   sessionStorage then, so two tabs can be two people, and a copy of the tab does not get it;
 * - `brings(state)`: the credentials that requests and sockets bring, as `bearer` makes them;
 * - `renew(state)`: resolves to what of the state is new; a Problem with 401 ends the session;
 * - `leave(state)`: ends it at whoever keeps it; resolves when that is done;
 * - and, where there are such, `find()`: the state of a session that was not begun in this tab, or
 *   null; `leaveEverywhere(credentials)`; `prove(proof, credentials)`, as `renew`, or `again()`,
 *   which leaves the page for another log-in; `elsewhere()`, other places for a proof, each with a
 *   `name` and `go()`, which leaves the page for it.
 * A state has `user`, `expiresAt` and `lifetime` (milliseconds), and what its way keeps beside.
 *
 * Events: "started"; "refreshed" (other credentials); "changed" (another name or address); "ended",
 * whose detail is the list of problems that ended it (empty after a log-out).
 */
class Session extends EventTarget {
  #ways = new Map();
  #way = null;
  #state = null;
  #rotation = null;
  #timer = null;

  get user() {
    return this.#state?.user ?? null;
  }

  /** The way by which somebody is signed in, or null. */
  get way() {
    return this.#way;
  }

  /** Makes a way known, by which somebody can be signed in. */
  offer(way) {
    this.#ways.set(way.name, way);
  }

  /** Takes up the session that this tab had before a reload, or one that is not of a tab. */
  async restore() {
    const state = JSON.parse(sessionStorage.getItem(KEY));
    const way = this.#ways.get(state?.way);
    if (way && (await claim(state.id))) return this.#start(way, state);
    sessionStorage.removeItem(KEY);
    return this.find();
  }

  /** Takes up a session that was not begun in this tab, if there is one. Throws a Problem. */
  async find() {
    for (const way of this.#ways.values()) {
      const state = await way.find?.();
      if (state) return this.begin(way, state);
    }
  }

  /** Signs in by a way, with the state that it has come to. */
  async begin(way, state) {
    const id = `${state.user.id} ${Date.now()} ${Math.random()}`;
    if (way.ofTab) await claim(id);
    this.#start(way, { ...state, way: way.name, id });
  }

  #start(way, state) {
    this.#way = way;
    this.#keep(state);
    this.dispatchEvent(new Event("started"));
  }

  /** Signs out here first: the person must not wait for the network to be signed out. */
  async logOut() {
    const [way, state] = [this.#way, this.#state];
    this.end([]);
    await way.leave(state);
  }

  /** Ends all sessions of this person: here first, and on every other device within a second. */
  async logOutEverywhere() {
    const way = this.#way;
    const credentials = await this.credentials();
    this.end([]);
    await way.leaveEverywhere(credentials);
  }

  /** Proves again who it is, by a password or a code, for what asks for that. */
  async stepUp(proof) {
    const credentials = await this.credentials();
    this.#renewed(await this.#way.prove(proof, credentials));
  }

  /** Who it is has changed: the name, or the address. */
  changed(user) {
    this.#keep({ ...this.#state, user });
    this.dispatchEvent(new Event("changed"));
  }

  /** Credentials that are good for a while yet; throws a Problem when there are none. */
  async credentials() {
    if (this.#state && Date.now() >= this.#dueAt()) await this.refresh();
    if (!this.#state) throw Problem.signedOut();
    return this.#way.brings(this.#state);
  }

  /**
   * Renews the session, once however many callers ask at the same time: a refresh token works a
   * single time, and using it twice ends the session. `cause` is the problem that made it
   * necessary; it is told to the person when the session is refused.
   */
  refresh(cause = null) {
    this.#rotation ??= this.#rotate(cause).finally(() => {
      this.#rotation = null;
    });
    return this.#rotation;
  }

  /** Forgets the session and tells the page why. */
  end(problems) {
    if (!this.#state) return;
    clearTimeout(this.#timer);
    this.#way = this.#state = null;
    sessionStorage.removeItem(KEY);
    this.dispatchEvent(new CustomEvent("ended", { detail: problems }));
  }

  async #rotate(cause) {
    const before = this.#state;
    if (!before) return;
    const goesOn = () => this.#state?.id === before.id;
    try {
      const renewed = await this.#way.renew(before);
      if (goesOn()) this.#renewed(renewed);
    } catch (problem) {
      if (problem.status === 401 && goesOn()) this.end([cause, problem].filter(Boolean));
      throw problem;
    }
  }

  #renewed(state) {
    this.#keep({ ...this.#state, ...state });
    this.dispatchEvent(new Event("refreshed"));
  }

  #keep(state) {
    this.#state = state;
    if (this.#way.ofTab) sessionStorage.setItem(KEY, JSON.stringify(state));
    this.#wakeIn(Math.max(0, this.#dueAt() - Date.now()));
  }

  #dueAt() {
    return this.#state.expiresAt - Math.min(EARLIEST, this.#state.lifetime / 2);
  }

  #wakeIn(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.refresh().catch(() => this.#state && this.#wakeIn(RETRY));
    }, Math.min(milliseconds, LONGEST_TIMER));
  }
}

/** What a request and a socket bring along by an access token. */
export function bearer(token) {
  return {
    token,
    headers: { Authorization: `Bearer ${token}` },
    protocols: ["bearer", token],
  };
}

/** What a state keeps of a token endpoint's answer (RFC 6749, 5.1). */
export function tokensOf(answer) {
  const lifetime = answer.expires_in * 1000;
  return {
    access: answer.access_token,
    refresh: answer.refresh_token,
    expiresAt: Date.now() + lifetime,
    lifetime,
  };
}

/**
 * Makes this tab the only user of a session. "Duplicate tab" copies sessionStorage, and two tabs
 * that exchange the same refresh token look like a thief and an owner: both would be signed out.
 * Returns false when another tab has the session. Without Web Locks (plain HTTP on another host
 * than localhost) there is nothing to ask, and the session is taken.
 */
async function claim(id) {
  if (!navigator.locks) return true;
  // A reload waits for the page that it replaces to let go; a copy must not stand in the queue
  // then, or it would be the one to get the session.
  const [{ type }] = performance.getEntriesByType("navigation");
  const asking = type === "reload" ? { signal: AbortSignal.timeout(10_000) } : { ifAvailable: true };
  return new Promise((settle) => {
    const held = (lock) => {
      settle(lock !== null);
      return lock && new Promise(() => {}); // until the tab goes
    };
    navigator.locks.request(`session ${id}`, asking, held).catch(() => settle(false));
  });
}

export const session = new Session();
