import { send } from "./http.js";
import { Problem } from "./problem.js";

const KEY = "session";
const EARLIEST = 30_000; // refresh this many milliseconds before the token expires, or halfway
const RETRY = 5_000;
const LONGEST_TIMER = 2 ** 31 - 1; // setTimeout takes a longer time for zero

/**
 * Who this tab is signed in as. The tokens live in sessionStorage, so two tabs can be two people.
 *
 * Events: "started"; "refreshed" (a new access token); "ended", whose detail is the list of
 * problems that ended it (empty after a log-out).
 */
class Session extends EventTarget {
  #state = null; // { id, user, access, refresh, expiresAt, lifetime }
  #rotation = null;
  #timer = null;

  get user() {
    return this.#state?.user ?? null;
  }

  /** Takes up the session that this tab had before a reload, if it had one. */
  async restore() {
    const stored = sessionStorage.getItem(KEY);
    if (!stored) return;
    const state = JSON.parse(stored);
    if (await claim(state.id)) {
      this.#keep(state);
      this.dispatchEvent(new Event("started"));
    } else {
      sessionStorage.removeItem(KEY);
    }
  }

  async signUp({ email, password, name }) {
    await send("POST", "api/v1/accounts", { json: { email, password, name } });
    await this.logIn({ email, password });
  }

  async logIn({ email, password }) {
    const form = { username: email, password };
    const tokens = await send("POST", "api/v1/auth/login", { form });
    const account = await send("GET", "api/v1/accounts/me", { token: tokens.access_token });
    const user = { ...account, id: String(account.id) }; // as features know them: a subject
    const id = `${user.id} ${Date.now()} ${Math.random()}`;
    await claim(id);
    this.#keep({ id, user, ...read(tokens) });
    this.dispatchEvent(new Event("started"));
  }

  /** Signs out here first: the person must not wait for the network to be signed out. */
  async logOut() {
    const refresh_token = this.#state.refresh;
    this.end([]);
    await send("POST", "api/v1/auth/logout", { json: { refresh_token } });
  }

  /** An access token that is good for a while yet; throws a Problem when there is none. */
  async token() {
    if (this.#state && Date.now() >= this.#dueAt()) await this.refresh();
    if (!this.#state) throw Problem.signedOut();
    return this.#state.access;
  }

  /**
   * Exchanges the refresh token, once however many callers ask at the same time: a refresh token
   * works a single time, and using it twice ends the session. `cause` is the problem that made
   * the refresh necessary; it is told to the person when the refresh is refused.
   */
  refresh(cause = null) {
    this.#rotation ??= this.#rotate(cause).finally(() => {
      this.#rotation = null;
    });
    return this.#rotation;
  }

  /** Forgets the tokens and tells the page why. */
  end(problems) {
    if (!this.#state) return;
    clearTimeout(this.#timer);
    this.#state = null;
    sessionStorage.removeItem(KEY);
    this.dispatchEvent(new CustomEvent("ended", { detail: problems }));
  }

  async #rotate(cause) {
    const before = this.#state;
    if (!before) return;
    try {
      const json = { refresh_token: before.refresh };
      const tokens = await send("POST", "api/v1/auth/refresh", { json });
      if (this.#state !== before) return;
      this.#keep({ ...before, ...read(tokens) });
      this.dispatchEvent(new Event("refreshed"));
    } catch (problem) {
      if (problem.status === 401 && this.#state === before) {
        this.end([cause, problem].filter(Boolean));
      }
      throw problem;
    }
  }

  #keep(state) {
    this.#state = state;
    sessionStorage.setItem(KEY, JSON.stringify(state));
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

function read(tokens) {
  const lifetime = tokens.expires_in * 1000;
  return {
    access: tokens.access_token,
    refresh: tokens.refresh_token,
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
