/** Starts Swagger UI from the copy in vendor/, on the service's own OpenAPI document. */
import { address } from "./core/http.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

function followScheme() {
  document.documentElement.classList.toggle("dark-mode", dark.matches);
}

followScheme();
dark.addEventListener("change", followScheme);

globalThis.SwaggerUIBundle({
  url: String(address("openapi.json")),
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null, // the validator is another host's
});
