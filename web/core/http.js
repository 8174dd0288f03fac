import { Problem } from "./problem.js";

const TIMEOUT = 15_000;

/** Where the service is mounted: its address stays right behind a proxy's path. */
const root = new URL("../", import.meta.url);

/** The absolute URL of a path of the service, such as "docs" or "api/v1/rooms". */
export function address(path) {
  return new URL(path, root);
}

/**
 * Sends one request and returns the JSON of its answer, or null when there is none (204). Its
 * options are `json` or `form`, the body, and `as`, the credentials that it brings.
 * Throws a Problem for every answer that is not a success, and when no answer comes.
 */
export async function send(method, path, options) {
  const response = await ask(method, path, options);
  return response.status === 204 ? null : response.json();
}

/**
 * The same for a request that has a mail sent: returns the mail, or null where it went to the
 * person. In development a mail is a file, and the answer names it.
 */
export async function sendForMail(method, path, options) {
  const response = await ask(method, path, options);
  const name = response.headers.get("X-Development-Mail");
  if (!name) return null;
  return send("GET", `development/mail/${encodeURIComponent(name)}`);
}

async function ask(method, path, { json, form, as } = {}) {
  const headers = { Accept: "application/json", ...as?.headers };
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const body = form ? new URLSearchParams(form) : JSON.stringify(json);
  let response;
  try {
    const signal = AbortSignal.timeout(TIMEOUT);
    response = await fetch(address(path), { method, headers, body, signal });
  } catch {
    throw Problem.unreachable();
  }
  if (!response.ok) throw await Problem.of(response);
  return response;
}
