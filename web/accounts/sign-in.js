/**
 * What somebody does who is not signed in: sign up, log in, also with a provider, and follow the
 * links of mails.
 *
 * A mailed link ends in "#confirm?token=…" (a new account), "#reset?token=…" (another password) or
 * "#email?token=…" (another address). What follows the # reaches no server and no log.
 */
import { addStyles, focusOn, h } from "../core/dom.js";
import { onSubmit } from "../core/form.js";
import { send, sendForMail } from "../core/http.js";
import { mailNotice } from "../core/mail.js";
import { session } from "../core/session.js";
import { problemNotice } from "../core/notices.js";
import { Problem } from "../core/problem.js";
import { choosePasswordForm, codeForm, forgotForm, logInForm, signUpForm } from "./forms.js";
import { Choices, Purpose, goOn, notThere, proof, taken } from "./providers.js";
import { beginByCookie, beginByTokens, byCookie, byTokens } from "./ways.js";

await addStyles(new URL("sign-in.css", import.meta.url));

const OPENED = "opened at"; // in localStorage, until the link of a mail is followed
const PURPOSES = ["confirm", "reset", "email"];

export function mount(element, context) {
  session.offer(byTokens);
  session.offer(byCookie);
  return new SignIn(element, context);
}

class SignIn {
  /** Where whoever is signed in finds what is theirs. */
  own = "#accounts";
  #context;
  #signUp = signUpForm();
  #logIn = logInForm();
  #forgot = forgotForm();
  #choosePassword = choosePasswordForm();
  #secondFactor = this.#logIn.querySelector("[data-second-factor]");
  #code = codeForm();
  #forms = [this.#signUp, this.#logIn, this.#forgot, this.#choosePassword, this.#code];
  #choices = new Choices();
  #proof = null; // { proof, stay } of a provider, until a code of the second factor goes with it
  #link = null; // { purpose, token } of the mailed link that was followed
  #opened = ""; // where somebody is to come when they have signed in

  constructor(element, context) {
    this.#context = context;
    onSubmit(this.#signUp, ({ name, email }) => this.#mailed("sign-up", { name, email }));
    onSubmit(this.#forgot, ({ email }) => this.#mailed("password/forgot", { email }));
    onSubmit(this.#logIn, (values) => this.#enter(values));
    onSubmit(this.#choosePassword, ({ password }) => this.#choose(password));
    onSubmit(this.#code, ({ otp }) => this.#enterBy(this.#proof, otp));
    const refuse = (problem) => this.#tell(problem);
    this.#choices.below(this.#signUp, refuse);
    this.#choices.below(this.#logIn, refuse, ({ stay }) => ({ stay: stay?.checked }));
    element.addEventListener("click", ({ target }) => {
      if (target.dataset.choose) this.#open(target.dataset.choose);
    });
    element.append(...this.#forms);
  }

  /** Shows the first form, or the log-in and `notices`: what signed somebody out. */
  show(notices) {
    this.#choices.fill();
    this.#show(notices.length > 0 ? "log-in" : "sign-up", ...notices);
  }

  /** Empties the forms: somebody has signed in. */
  forget() {
    for (const form of this.#forms) form.reset();
    this.#secondFactor.hidden = true;
    this.#link = this.#proof = null;
  }

  /** Takes up a mailed link, or a return from a provider; returns whether the address was one. */
  follow() {
    const returned = taken();
    if (returned) {
      this.#opened = location.hash;
      this.#comeBack(returned);
      return true;
    }
    const [purpose, query] = location.hash.slice(1).split("?");
    const token = new URLSearchParams(query).get("token");
    if (!token || !PURPOSES.includes(purpose)) {
      this.#opened = location.hash;
      return false;
    }
    this.#opened ||= localStorage.getItem(OPENED) ?? "#"; // a mail opens a tab of its own
    localStorage.removeItem(OPENED);
    history.replaceState(null, "", this.#opened); // it is good once, and need not stay there
    this.#link = { purpose, token };
    const ask = () => this.#open("choose-password");
    if (purpose === "email") this.#confirmEmail(token);
    else if (!session.user) ask();
    else session.logOut().catch(() => {}).finally(ask); // it may be somebody else's
    return true;
  }

  #show(id, ...notices) {
    for (const form of this.#forms) form.hidden = form.id !== id;
    this.#context.say(...notices);
  }

  #open(id, ...notices) {
    this.#show(id, ...notices);
    this.#forms.find((form) => form.id === id).querySelector("input").focus();
  }

  async #mailed(path, json) {
    const mail = await sendForMail("POST", `api/v1/accounts/${path}`, { json });
    if (location.hash) localStorage.setItem(OPENED, location.hash);
    const notice = mailNotice(json.email, mail);
    this.#show(null, notice);
    focusOn(notice); // the form that had the keyboard is gone
  }

  async #enter({ email, password, otp, stay }) {
    const form = { username: email, password, ...(otp && { otp }) };
    try {
      if (stay) await beginByCookie(await send("POST", "api/v1/auth/cookie", { form }));
      else await beginByTokens(await send("POST", "api/v1/auth/login", { form }));
    } catch (problem) {
      if (problem.code !== "accounts.second_factor_required") throw problem;
      this.#secondFactor.hidden = false;
      this.#secondFactor.querySelector("input").focus();
    }
  }

  /** Goes on with what somebody has left the page for. */
  async #comeBack({ kept, given }) {
    const logsIn = kept?.purpose === Purpose.logIn;
    try {
      if (!given || !(logsIn || session.user)) throw notThere(kept);
      if (!logsIn) {
        this.#context.note(done(await goOn(kept, given)));
      } else if (!session.user) { // or another tab was faster
        this.#context.say(done("One moment: you are being logged in."));
        await this.#prove(kept, given);
      }
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#tell(problem);
    }
  }

  async #prove(kept, given) {
    const proved = await proof(kept, given);
    this.#proof = { proof: proved.proof, stay: kept.stay };
    if (proved.second_factor) this.#open(this.#code.id);
    else await this.#enterBy(this.#proof);
  }

  async #enterBy({ proof, stay }, otp) {
    const json = { proof, ...(otp && { otp }) };
    if (stay) await beginByCookie(await send("POST", "api/v1/auth/cookie/provider", { json }));
    else await beginByTokens(await send("POST", "api/v1/auth/providers/session", { json }));
  }

  #tell(problem) {
    if (session.user) this.#context.report(problem);
    else this.#show("log-in", problemNotice(problem));
  }

  async #choose(password) {
    const { purpose, token } = this.#link;
    const json = { token, password };
    if (purpose === "confirm") {
      await beginByTokens(await send("POST", "api/v1/accounts/confirm", { json }));
      return;
    }
    const { api_keys } = await send("POST", "api/v1/accounts/password/reset", { json });
    this.#open("log-in", done(`Your password is changed. Log in.${keysLeft(api_keys)}`));
  }

  async #confirmEmail(token) {
    await send("POST", "api/v1/accounts/email/confirm", { json: { token } });
    const confirmed = done("Your new address is confirmed.");
    if (session.user) this.#context.note(confirmed);
    else this.#show("log-in", confirmed);
  }
}

function keysLeft(keys) {
  if (keys === 0) return "";
  const left = keys === 1 ? "One API key of yours is" : `${keys} API keys of yours are`;
  return ` ${left} still good: revoke what you do not know, in your account under Programs.`;
}

function done(text) {
  return h("div", { class: "notice", role: "status" }, text);
}
