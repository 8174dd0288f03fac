import { h } from "./dom.js";
import { problemNotice } from "./notices.js";
import { Problem } from "./problem.js";

/**
 * Hands a form's values to `action` when it is submitted, and shows the Problem it throws: each
 * message of a validation error beside its field, everything else above the button. The service
 * validates; the form repeats none of its rules.
 */
export function onSubmit(form, action) {
  form.noValidate = true;
  const alert = h("div", { role: "alert" });
  const button = form.querySelector("[type=submit]");
  button.before(alert);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    clear(form, alert);
    button.disabled = true;
    try {
      await action(Object.fromEntries(new FormData(form)));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      show(form, alert, problem);
    } finally {
      button.disabled = false;
      if (document.activeElement === document.body) button.focus(); // it had the keyboard
    }
  });
  return form;
}

function clear(form, alert) {
  alert.replaceChildren();
  for (const error of form.querySelectorAll(".field-error")) error.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
  }
}

function show(form, alert, problem) {
  const elsewhere = [];
  let first = null;
  for (const [name, messages] of problem.byField) {
    const field = form.elements.namedItem(name);
    if (field) first ??= mark(field, messages.join(" "));
    else elsewhere.push(...messages.map((message) => `${name}: ${message}`));
  }
  alert.append(problemNotice(problem, { errors: elsewhere }));
  first?.focus();
}

function mark(field, message) {
  const id = `${field.id}-error`;
  const hints = (field.getAttribute("aria-describedby") ?? "").split(" ");
  field.setAttribute("aria-describedby", [...new Set([id, ...hints])].join(" "));
  field.setAttribute("aria-invalid", "true");
  field.after(h("p", { class: "field-error", id }, message));
  return field;
}
