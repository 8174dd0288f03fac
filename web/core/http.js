import { Problem } from "./problem.js";

const TIMEOUT = 15_000;

/** Where the service is mounted: its address stays right behind a proxy's path. */
const root = new URL("../", import.meta.url);

/** The absolute URL of a path of the service, such as "docs" or "api/v1/rooms". */
export function address(path) {
  return new URL(path, root);
}

/**
 * Sends one request and returns the JSON of its answer, or null when there is none (204).
 * Throws a Problem for every answer that is not a success, and when no answer comes.
 */
export async function send(method, path, { json, form, token } = {}) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
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
  return response.status === 204 ? null : response.json();
}
