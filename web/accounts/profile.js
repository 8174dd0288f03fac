import { h } from "../core/dom.js";
import { api } from "../core/api.js";
import { sendForMail } from "../core/http.js";
import { mailNotice } from "../core/mail.js";
import { session } from "../core/session.js";
import { fresh } from "../core/step-up.js";
import { field, form, part } from "./parts.js";
import { asUser } from "./ways.js";

const current = { type: "password", autocomplete: "current-password", required: true };

/** Name, address, password, and the end of the account. */
export function profile() {
  // It is asked for with the others, and only a mail can set the first.
  if (session.user.has_password === false) return h("div", {}, name(), noPassword());
  return h("div", {}, name(), email(), password(), deletion());
}

function noPassword() {
  const says =
    "You log in with a provider alone. Choose a password to log in without it, to change your " +
    "address, or to delete your account.";
  const ask = async () => {
    const { email } = session.user;
    const mail = await sendForMail("POST", "api/v1/accounts/password/forgot", { json: { email } });
    return mailNotice(email, mail);
  };
  return part("Password", h("p", {}, says), form("Mail me a link", [], ask));
}

function name() {
  const box = field("Name", "name", { autocomplete: "name", value: session.user.name });
  const save = async (values) => {
    session.changed(asUser(await fresh(() => api.patch("accounts/me", values))));
    return "Saved.";
  };
  return part("Name", form("Save", [box], save));
}

function email() {
  const now = h("p", { class: "hint" }, "Now: ", h("strong", {}, session.user.email));
  const to = field("New address", "email", { type: "email", autocomplete: "email" });
  const change = async (values, element) => {
    const mail = await fresh(() => api.postForMail("accounts/me/email", values));
    element.reset();
    return mailNotice(values.email, mail);
  };
  return part("Email", now, form("Change address", [to, field("Password", "password", current)], change));
}

function password() {
  const hidden = { type: "text", autocomplete: "username", value: session.user.email, hidden: true };
  const fresher = { type: "password", autocomplete: "new-password", required: true };
  const change = async (values, element) => {
    await api.post("accounts/me/password", { current: values.current, new: values.new });
    element.reset();
    return "Changed. Your other sessions are ended.";
  };
  const fields = [
    h("input", { name: "username", "aria-label": "Email", ...hidden }),
    field("Current password", "current", current),
    field("New password", "new", fresher),
  ];
  return part("Password", form("Change password", fields, change));
}

function deletion() {
  const says = h("p", {}, "Your account and all that belongs to it are removed. It cannot be undone.");
  const remove = async (values) => {
    await fresh(() => api.delete("accounts/me", values));
    await session.logOut(); // which forgets a cookie too
  };
  const ask = form("Delete my account", [field("Password", "password", current)], remove);
  return part("Delete the account", says, ask);
}
