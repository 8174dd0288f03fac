import { h } from "../core/dom.js";
import { api } from "../core/api.js";
import { fresh } from "../core/step-up.js";
import { action, field, form, moment, part } from "./parts.js";

const PATH = "accounts/me/second-factor";

/** An authenticator as second factor, and the codes for when it is lost. */
export function secondFactor({ report }) {
  const place = h("div", { class: "second-factor" });

  async function show() {
    const { enabled, created_at, recovery_codes_left } = await api.get(PATH);
    place.replaceChildren(...(enabled ? inForce(created_at, recovery_codes_left) : none()));
  }

  function none() {
    const says = "A code of your phone beside the password: who learns the password still stays out.";
    return [h("p", {}, says), action("Set up an authenticator", report, setUp)];
  }

  async function setUp() {
    const { qr, secret } = await fresh(() => api.post(PATH));
    const image = h("img", { alt: "QR code for your authenticator", width: 220, height: 220 });
    image.src = `data:image/svg+xml,${encodeURIComponent(qr)}`;
    const code = field("Code that it shows", "code", {
      inputmode: "numeric",
      autocomplete: "one-time-code",
    });
    const confirm = async (values) => {
      const { recovery_codes } = await api.post(`${PATH}/confirm`, values);
      tell(recovery_codes);
    };
    place.replaceChildren(
      h("p", {}, "Scan this with an authenticator app, or type the key into it."),
      image,
      h("p", {}, "Key: ", h("code", { class: "secret" }, secret)),
      form("Confirm", [code], confirm),
    );
    place.querySelector("input").focus();
  }

  function tell(codes) {
    place.replaceChildren(
      h("p", { role: "status" }, "Your recovery codes. Each stands in for the authenticator once, and they are shown only now."),
      h("ol", { class: "codes" }, codes.map((code) => h("li", {}, h("code", {}, code)))),
      action("I have kept them", report, show),
    );
  }

  function inForce(since, left) {
    return [
      h("p", {}, "In force since ", moment(since), `, ${left} recovery codes left.`),
      h(
        "div",
        { class: "choices" },
        action("New recovery codes", report, async () => {
          const { recovery_codes } = await fresh(() => api.post(`${PATH}/recovery-codes`));
          tell(recovery_codes);
        }),
        action("Remove it", report, async () => {
          await fresh(() => api.delete(PATH));
          await show();
        }),
      ),
    ];
  }

  show().catch(report);
  return part("Second factor", place);
}
