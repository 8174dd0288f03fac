import { send } from "./http.js";
import { session } from "./session.js";

/**
 * One request as the person signed in. A 401 is answered by refreshing the token and asking once
 * more; a second 401 ends the session, which shows the log-in form with the reason.
 */
async function call(method, path, json) {
  const ask = async () => send(method, `api/v1/${path}`, { json, token: await session.token() });
  try {
    return await ask();
  } catch (problem) {
    if (problem.status !== 401) throw problem;
    await session.refresh(problem);
  }
  try {
    return await ask();
  } catch (problem) {
    if (problem.status === 401) session.end([problem]);
    throw problem;
  }
}

/** The service's REST door. Each call returns the answer's JSON or throws a Problem. */
export const api = {
  get: (path) => call("GET", path),
  post: (path, json) => call("POST", path, json),
  put: (path, json) => call("PUT", path, json),
  delete: (path) => call("DELETE", path),
};
