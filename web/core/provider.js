/**
 * Signs people in where a provider knows them (AUTH_MODE=oidc): they log in there and come back to
 * this page with a code, which it trades for tokens.
 */
import { h } from "./dom.js";
import { onSubmit } from "./form.js";
import { address, send } from "./http.js";
import { problemNotice } from "./notices.js";
import { attempt, exchange, renew, revoke, wayOut } from "./openid.js";
import { Problem } from "./problem.js";
import { bearer, session, tokensOf } from "./session.js";

const KEPT = "log-in"; // in sessionStorage, while somebody is at the provider
const HERE = String(address(""));

export function mount(element, context) {
  const signIn = new SignIn(element, context);
  session.offer(signIn.way);
  return signIn;
}

class SignIn {
  /** By tokens of the provider, which this tab keeps. */
  way;
  #context;
  #form;

  constructor(element, context) {
    this.#context = context;
    this.way = this.#wayOf(context);
    this.#form = context.client_id ? this.#logInForm() : notSetUp(context.issuer);
    element.append(this.#form);
  }

  #wayOf(client) {
    return {
      name: "provider",
      ofTab: true,
      brings: ({ access }) => bearer(access),

      async renew({ refresh, idToken }) {
        if (!refresh) throw new Problem({ title: "Your log-in has ended.", status: 401 });
        const answer = await renew(client, refresh);
        const tokens = tokensOf(answer);
        return { ...tokens, refresh: tokens.refresh ?? refresh, idToken: answer.id_token ?? idToken };
      },

      async leave({ refresh, idToken }) {
        if (refresh) await revoke(client, refresh);
        const out = await wayOut(client, HERE, idToken);
        if (out) location.assign(out);
      },

      /** Has somebody log in again, to prove who it is; the page is left. */
      again: () => this.#go({ prompt: "login", max_age: "0" }),
    };
  }

  show(notices) {
    this.#context.say(...notices);
  }

  forget() {}

  /** Takes up what the provider sends somebody back with; returns whether it did. */
  follow() {
    const answer = new URLSearchParams(location.search);
    if (!answer.has("state") || !(answer.has("code") || answer.has("error"))) return false;
    const kept = JSON.parse(sessionStorage.getItem(KEPT));
    sessionStorage.removeItem(KEPT);
    history.replaceState(null, "", location.pathname + (kept?.hash ?? "")); // it is good once
    this.#enter(answer, kept);
    return true;
  }

  async #go(more) {
    const { url, ...kept } = await attempt(this.#context, HERE, more);
    sessionStorage.setItem(KEPT, JSON.stringify({ ...kept, hash: location.hash }));
    location.assign(url);
  }

  async #enter(answer, kept) {
    this.#form.inert = true;
    const { say, report } = this.#context;
    if (!session.user) say(h("p", { class: "notice" }, "One moment: you are being logged in."));
    try {
      const state = await this.#stateOf(await exchange(this.#context, HERE, answer, kept));
      session.end([]); // it may be somebody else's
      await session.begin(this.way, state);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (session.user) report(problem);
      else say(problemNotice(problem));
    } finally {
      this.#form.inert = false;
    }
  }

  async #stateOf(answer) {
    const me = await send("GET", "api/v1/me", { as: bearer(answer.access_token) });
    const user = { ...me, id: me.subject, name: me.name || me.subject };
    const seconds = answer.expires_in ?? (Date.parse(me.expires_at) - Date.now()) / 1000;
    const tokens = tokensOf({ ...answer, expires_in: seconds });
    // What cannot be renewed is good until its end.
    if (!tokens.refresh) tokens.lifetime = 0;
    return { user, ...tokens, idToken: answer.id_token };
  }

  #logInForm() {
    const { host } = new URL(this.#context.issuer);
    const form = h(
      "form",
      { id: "log-in", method: "post" },
      h("h2", {}, "Log in"),
      h("div", { class: "field" }, h("p", {}, "You log in at ", h("strong", {}, host), ".")),
      h("button", { type: "submit" }, "Log in"),
    );
    return onSubmit(form, () => this.#go({}));
  }
}

function notSetUp(issuer) {
  const code = (text) => h("code", {}, text);
  return h(
    "div",
    { id: "not-set-up" },
    h("h2", {}, "Nobody logs in here"),
    h("p", {}, "This service takes the access tokens of ", code(issuer || "no provider"), "."),
    h(
      "p",
      {},
      "For people to log in on this page, make it a public client there, with the redirect address ",
      code(HERE),
      ", and set ",
      code("OIDC_CLIENT_ID"),
      ".",
    ),
  );
}
