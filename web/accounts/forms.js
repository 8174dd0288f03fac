/** The forms of who is not signed in. A button with `data-choose` leads to another of them. */
import { h } from "../core/dom.js";

const email = { name: "email", type: "email" };
const password = { name: "password", type: "password" };
const code = { name: "otp", autocomplete: "one-time-code", spellcheck: "false" };
const CODE = "Code of your authenticator, or a recovery code";

export function signUpForm() {
  return form(
    "sign-up",
    "Sign up",
    field("sign-up-name", "Name", { name: "name", autocomplete: "name" }),
    field("sign-up-email", "Email", { ...email, autocomplete: "email" }),
    submit("Sign up"),
    h("p", { class: "switch" }, "You have an account? ", to("log-in", "Log in")),
  );
}

/** Its part with `data-second-factor` is hidden until the service asks for a code. */
export function logInForm() {
  const secondFactor = field("log-in-otp", CODE, { ...code, required: false });
  secondFactor.dataset.secondFactor = "";
  secondFactor.hidden = true;
  return form(
    "log-in",
    "Log in",
    field("log-in-email", "Email", { ...email, autocomplete: "username" }),
    field("log-in-password", "Password", { ...password, autocomplete: "current-password" }),
    secondFactor,
    isSecureContext && stay(), // elsewhere the browser would not keep the cookie
    submit("Log in"),
    h(
      "p",
      { class: "switch" },
      to("forgot", "Forgot your password?"),
      " New here? ",
      to("sign-up", "Sign up"),
    ),
  );
}

/** For who has logged in at a provider, and has a second factor. */
export function codeForm() {
  return form(
    "second-factor",
    "Your second factor",
    field("second-factor-otp", CODE, code),
    submit("Log in"),
    h("p", { class: "switch" }, "Another way? ", to("log-in", "Log in")),
  );
}

export function forgotForm() {
  return form(
    "forgot",
    "Choose another password",
    field("forgot-email", "Email", { ...email, autocomplete: "username" }),
    submit("Mail me a link"),
    h("p", { class: "switch" }, "You know it? ", to("log-in", "Log in")),
  );
}

export function choosePasswordForm() {
  const hint = h("p", { class: "hint", id: "password-hint" }, "At least 10 characters.");
  const fresh = { ...password, autocomplete: "new-password", "aria-describedby": hint.id };
  return form(
    "choose-password",
    "Choose a password",
    field("new-password", "Password", fresh, hint),
    submit("Go on"),
    h("p", { class: "switch" }, "Not now? ", to("log-in", "Log in")),
  );
}

function form(id, heading, ...children) {
  return h("form", { id, method: "post", hidden: true }, h("h2", {}, heading), children);
}

function field(id, label, attributes, hint = null) {
  const input = h("input", { id, required: true, ...attributes });
  return h("div", { class: "field" }, h("label", { for: id }, label), input, hint);
}

function stay() {
  const box = h("input", { id: "log-in-stay", name: "stay", type: "checkbox" });
  return h("div", { class: "choice" }, box, h("label", { for: box.id }, "Stay signed in in this browser"));
}

function submit(name) {
  return h("button", { type: "submit" }, name);
}

function to(id, name) {
  return h("button", { class: "link", type: "button", "data-choose": id }, name);
}
