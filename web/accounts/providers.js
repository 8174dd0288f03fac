/**
 * OpenID providers, at which people log in instead of giving a password here.
 *
 * The page is left for them: what it was begun with is kept in sessionStorage, so that nobody but
 * this tab can go on with what the provider sends back in the address.
 */
import { api } from "../core/api.js";
import { h } from "../core/dom.js";
import { send } from "../core/http.js";
import { Problem } from "../core/problem.js";
import { session } from "../core/session.js";
import { fresh } from "../core/step-up.js";
import { action, moment, part } from "./parts.js";

const KEPT = "provider";
const LOG_IN = "api/v1/auth/providers";
const IDENTITIES = "accounts/me/identities";
const STEP_UP = "auth/step-up/provider";

let going = null; // what somebody has come back for, as long as it is being done

/** What it was begun for. */
export const Purpose = { logIn: "log-in", link: "link", stepUp: "step-up" };

/** The providers there are, as the service lists them. */
export async function listed() {
  return (await send("GET", LOG_IN)).items;
}

/** Leaves the page for a provider, to log in there; `more` is kept for the return. */
export async function logInAt({ name, label }, more = {}) {
  leave(await send("POST", `${LOG_IN}/${name}`), { purpose: Purpose.logIn, name, label, ...more });
}

async function stepUpAt({ name, label }) {
  leave(await api.post(`${STEP_UP}/${name}`), { purpose: Purpose.stepUp, name, label });
}

/** Where who has no password can prove again who it is: `{name, go}` for each linked provider. */
export async function linked() {
  if (session.user.has_password !== false) return [];
  const { items } = await api.get(IDENTITIES);
  return items
    .filter(({ provider }) => provider)
    .map(({ provider: name, label }) => ({
      name: `Log in at ${label} again`,
      go: () => stepUpAt({ name, label }),
    }));
}

async function linkAt({ name, label }) {
  const begun = await fresh(() => api.post(`${IDENTITIES}/${name}`));
  leave(begun, { purpose: Purpose.link, name, label });
}

function leave({ url, attempt }, what) {
  sessionStorage.setItem(KEPT, JSON.stringify({ attempt, hash: location.hash, ...what }));
  location.assign(url);
}

/**
 * What a provider has sent somebody back with, if the address says so: `given` is for the service,
 * or null where the provider has refused, and `kept` is what it was begun with, or null. It is
 * taken out of the address, which is then the one from before.
 */
export function taken() {
  const answer = new URLSearchParams(location.search);
  if (!answer.has("state") || !(answer.has("code") || answer.has("error"))) return null;
  const kept = JSON.parse(sessionStorage.getItem(KEPT));
  sessionStorage.removeItem(KEPT);
  history.replaceState(null, "", location.pathname + (kept?.hash || location.hash || ""));
  if (!kept || answer.has("error")) return { kept, given: null };
  const [code, state, iss] = ["code", "state", "iss"].map((name) => answer.get(name));
  return { kept, given: { code, state, attempt: kept.attempt, ...(iss && { iss }) } };
}

/** Why a return leads nowhere: `kept` is what it was begun with, if that is known. */
export function notThere(kept) {
  if (kept) return new Problem({ title: `You have not logged in at ${kept.label}.` });
  const detail = "It was begun in another tab, or too long ago. Begin again.";
  return new Problem({ title: "This log-in cannot be gone on with.", detail });
}

/** A proof for a session, by what the provider has sent: `{proof, second_factor}`. */
export function proof({ name }, given) {
  return send("POST", `${LOG_IN}/${name}/callback`, { json: given });
}

/** Does what somebody who is signed in has come back for; says what is done. */
export function goOn(kept, given) {
  const done = finish(kept, given);
  going = done.catch(() => {}); // it is told where it was begun
  return done;
}

async function finish({ purpose, label }, given) {
  if (purpose === Purpose.link) {
    await api.post(IDENTITIES, given);
    return `Your account is linked to ${label}: you can log in with it.`;
  }
  await session.stepUp(given);
  return "It is you. Do now what asked for that.";
}

/** Buttons that log in with a provider; empty until it is known that there are some. */
export class Choices {
  #boxes = [];
  #filled = null;

  /** A place for the buttons in a form; `more(form)` is kept for the return. */
  below(form, report, more = () => ({})) {
    const box = h("div", { class: "providers", hidden: true });
    this.#boxes.push({ box, report, more: () => more(form) });
    form.querySelector("[type=submit]").after(box);
  }

  /** Asks the service which there are, once. Without an answer there are none. */
  fill() {
    this.#filled ??= listed().then(
      (providers) => this.#boxes.forEach((each) => fill(each, providers)),
      () => {
        this.#filled = null;
      },
    );
  }
}

function fill({ box, report, more }, providers) {
  const buttons = providers.map((provider) =>
    action(`Log in with ${provider.label}`, report, () => logInAt(provider, more())),
  );
  for (const button of buttons) button.classList.remove("small");
  box.hidden = buttons.length === 0;
  box.replaceChildren(h("p", {}, "or"), ...buttons);
}

/** What the account is linked to: a part of the account's page. */
export function providers({ report }) {
  const list = h("ul", { class: "entries" });
  const more = h("div", { class: "choices" });
  const section = part("Log-in with others", list, more);
  section.hidden = true; // until there is something to choose

  async function show() {
    await going;
    const [{ items }, known] = await Promise.all([api.get(IDENTITIES), listed()]);
    list.replaceChildren(...items.map(entry));
    const others = known.filter(({ name }) => !items.some(({ provider }) => provider === name));
    more.replaceChildren(
      ...others.map((each) => action(`Link to ${each.label}`, report, () => linkAt(each))),
    );
    section.hidden = items.length + known.length === 0;
  }

  function entry({ id, label, email, created_at }) {
    const unlink = async () => {
      await fresh(() => api.delete(`${IDENTITIES}/${id}`));
      await show();
    };
    const button = action("Unlink", report, unlink, { "aria-label": `Unlink ${label}` });
    const facts = [email && `${email} · `, "since ", moment(created_at)];
    return h("li", {}, h("div", {}, h("strong", {}, label), h("p", { class: "hint" }, ...facts)), button);
  }

  show().catch(report);
  return section;
}
