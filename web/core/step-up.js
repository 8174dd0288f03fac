import { h } from "./dom.js";
import { onSubmit } from "./form.js";
import { session } from "./session.js";

/**
 * Does what may ask for a fresh proof of who it is: where the service says so, a dialog asks for
 * the password or a code, and it is done again. Cancelled, the service's problem is thrown.
 */
export async function fresh(act) {
  try {
    return await act();
  } catch (problem) {
    if (problem.code !== "step_up_required" || !(await proved())) throw problem;
    return act();
  }
}

function proved() {
  return session.way.prove ? provedHere() : provedElsewhere();
}

/** Where a provider knows people they log in there again; the page is left for that. */
function provedElsewhere() {
  const again = h("button", { type: "button" }, "Log in again");
  const cancel = h("button", { class: "quiet", type: "button" }, "Cancel");
  const dialog = h(
    "dialog",
    { class: "card", "aria-labelledby": "step-up-heading" },
    h("h2", { id: "step-up-heading" }, "Is it you?"),
    h("p", {}, "This needs a fresh log-in. Then do it once more."),
    h("div", { class: "choices" }, again, cancel),
  );
  document.body.append(dialog);
  return new Promise((settle, refuse) => {
    again.addEventListener("click", () => session.way.again().catch(refuse));
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      settle(false);
    });
    dialog.showModal();
  });
}

function provedHere() {
  const id = "step-up-proof";
  const label = h("label", { for: id }, "Your password, or a code if you have a second factor");
  const input = h("input", { id, name: "proof", type: "password", autocomplete: "current-password" });
  const cancel = h("button", { class: "quiet", type: "button" }, "Cancel");
  const form = h(
    "form",
    { method: "post" },
    h("h2", { id: "step-up-heading" }, "Is it you?"),
    h("p", {}, "This needs a fresh proof."),
    h("div", { class: "field" }, label, input),
    h("div", { class: "choices" }, h("button", { type: "submit" }, "Go on"), cancel),
  );
  const dialog = h("dialog", { class: "card", "aria-labelledby": "step-up-heading" }, form);
  document.body.append(dialog);
  return new Promise((settle, refuse) => {
    let right = false;
    const leave = (go) => go().catch((problem) => {
      refuse(problem);
      dialog.close();
    });
    const offer = (ways) => {
      if (ways.length > 0) label.textContent = "A code, if you have a second factor";
      cancel.after(...ways.map(({ name, go }) => (
        h("button", { class: "quiet", type: "button", on: { click: () => leave(go) } }, name)
      )));
    };
    session.way.elsewhere?.().then(offer, () => {});
    onSubmit(form, async ({ proof }) => {
      // A code is six digits, or a recovery code, and no password that is long enough.
      const isCode = /^\s*\d{6}\s*$/.test(proof) || /^[a-z2-7]{4}(-[a-z2-7]{4})+$/i.test(proof.trim());
      await session.stepUp(isCode ? { code: proof.trim() } : { password: proof });
      right = true;
      dialog.close();
    });
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      settle(right);
    });
    dialog.showModal();
  });
}
