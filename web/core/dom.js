/**
 * Builds an element. Strings become text nodes, never markup.
 *
 *   h("button", { class: "quiet", type: "button", on: { click: save } }, "Save")
 *
 * Attributes and children that are null, undefined or false are left out; an attribute that is
 * true is written as an empty one.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  const { on = {}, ...rest } = attributes;
  for (const [name, value] of Object.entries(rest)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  const present = (child) => child !== null && child !== undefined && child !== false;
  element.append(...children.flat().filter(present));
  return element;
}

/** Moves the keyboard and the screen reader to an element that is not a control. */
export function focusOn(element) {
  element.tabIndex = -1;
  element.focus({ preventScroll: true });
}

/**
 * Adds a style sheet. Resolves when it is there, or is known not to come: a module awaits its own
 * before it exports anything, so that nothing moves under the pointer of who clicks at once.
 */
export function addStyles(url) {
  return new Promise((resolve) => {
    const on = { load: resolve, error: resolve };
    document.head.append(h("link", { rel: "stylesheet", href: String(url), on }));
  });
}
