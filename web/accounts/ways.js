/** The ways to be signed in to an account. */
import { send } from "../core/http.js";
import { bearer, session, tokensOf } from "../core/session.js";
import { linked } from "./providers.js";

const COOKIE = "api/v1/auth/cookie";
const MARK = "signed in by cookie"; // in localStorage: no script sees the cookie itself
const DAY = 86_400_000; // so often a page that stays open has the browser keep the cookie longer

const everywhere = (as) => send("POST", "api/v1/auth/logout/everywhere", { as });
// A proof is a password or a code, or what a provider has sent back.
const proven = (json, as) =>
  send("POST", `api/v1/auth/step-up${json.attempt ? "/provider" : ""}`, { json, as });

/** By tokens that this tab keeps. */
export const byTokens = {
  name: "tokens",
  ofTab: true,
  brings: ({ access }) => bearer(access),

  async renew({ refresh }) {
    const json = { refresh_token: refresh };
    return tokensOf(await send("POST", "api/v1/auth/refresh", { json }));
  },

  leave: ({ refresh }) => send("POST", "api/v1/auth/logout", { json: { refresh_token: refresh } }),
  leaveEverywhere: everywhere,
  prove: async (proof, credentials) => tokensOf(await proven(proof, credentials)),
  elsewhere: linked,
};

/** By a cookie, in every tab of this browser, until somebody logs out. No page has a token. */
export const byCookie = {
  name: "cookie",
  ofTab: false,

  brings: ({ csrf }) => ({
    token: null,
    headers: { "X-CSRF-Token": csrf },
    protocols: ["csrf", csrf],
  }),

  async find() {
    return localStorage.getItem(MARK) ? byCookie.renew() : null; // elsewhere it would be refused
  },

  async renew() {
    try {
      return stateOf(await send("GET", COOKIE));
    } catch (problem) {
      if (problem.status === 401) localStorage.removeItem(MARK);
      throw problem;
    }
  },

  leave: (state) => leaveCookie(byCookie.brings(state)),

  async leaveEverywhere(credentials) {
    await everywhere(credentials);
    await leaveCookie(credentials);
  },

  async prove(proof, credentials) {
    await proven(proof, credentials);
    return {};
  },

  elsewhere: linked,
};

async function leaveCookie(credentials) {
  await send("DELETE", COOKIE, { as: credentials });
  localStorage.removeItem(MARK); // not before: until then the browser has the cookie
}

// Another tab has signed in, as somebody else perhaps, or out.
addEventListener("storage", ({ key, newValue }) => {
  if (key !== MARK && key !== null) return;
  if (session.way === byCookie) session.end([]);
  if (newValue && !session.user) session.find().catch(() => {}); // it is told where it was asked for
});

/** Signs in with the tokens that the service has given. */
export async function beginByTokens(answer) {
  const tokens = tokensOf(answer);
  const account = await send("GET", "api/v1/accounts/me", { as: bearer(tokens.access) });
  await session.begin(byTokens, { user: asUser(account), ...tokens });
}

/** Signs in with the answer that came with a session's cookie. */
export async function beginByCookie(answer) {
  const state = stateOf(answer);
  localStorage.setItem(MARK, `${state.user.id} ${Date.now()}`);
  await session.begin(byCookie, state);
}

function stateOf({ csrf_token: csrf, account }) {
  return { user: asUser(account), csrf, expiresAt: Date.now() + DAY, lifetime: DAY };
}

/** An account as features know people: its id is a subject. */
export function asUser(account) {
  return { ...account, id: String(account.id) };
}
