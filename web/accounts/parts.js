import { focusOn, h } from "../core/dom.js";
import { onSubmit } from "../core/form.js";

let fields = 0;

/** A part of the page: a heading, and what is below it. */
export function part(name, ...children) {
  const id = `part-${(fields += 1)}`;
  return h("section", { class: "part", "aria-labelledby": id }, h("h2", { id }, name), ...children);
}

/** A labelled field; `attributes` are those of its input. */
export function field(label, name, attributes = {}) {
  const id = `field-${(fields += 1)}`;
  const input = h("input", { id, name, ...attributes });
  return h("div", { class: "field" }, h("label", { for: id }, label), input);
}

/** A form whose values go to `action`; what that returns is said below its button. */
export function form(button, children, action) {
  const status = h("p", { class: "done", role: "status" });
  const element = h(
    "form",
    { method: "post" },
    ...children,
    h("button", { type: "submit" }, button),
    status,
  );
  return onSubmit(element, async (values) => {
    status.replaceChildren();
    const said = await action(values, element);
    if (said) status.replaceChildren(said);
  });
}

/**
 * A button that does something once at a time; what it throws goes to `report`. Where it is gone
 * after that, with the keyboard on it, its part has the keyboard.
 */
export function action(name, report, act, attributes = {}) {
  const button = h("button", { class: "quiet small", type: "button", ...attributes }, name);
  button.addEventListener("click", async () => {
    const place = button.closest(".part");
    button.disabled = true;
    try {
      await act();
    } catch (problem) {
      report(problem);
    } finally {
      button.disabled = false;
      if (document.activeElement !== document.body) return;
      if (button.isConnected) button.focus();
      else if (place?.isConnected) focusOn(place.querySelector("h2"));
    }
  });
  return button;
}

/** A moment as people read it, with the exact one for machines. */
export function moment(iso) {
  if (!iso) return h("span", {}, "never");
  const shown = new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  return h("time", { datetime: iso }, shown);
}
