import { send, sendForMail } from "./http.js";
import { session } from "./session.js";

/**
 * One request as the person signed in. A 401 is answered by renewing the session and asking once
 * more; a second 401 ends the session, which shows the log-in form with the reason.
 */
async function call(method, path, json, how = send) {
  const ask = async () => how(method, `api/v1/${path}`, { json, as: await session.credentials() });
  try {
    return await ask();
  } catch (problem) {
    if (problem.status !== 401 || problem.code === "step_up_required") throw problem;
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
  patch: (path, json) => call("PATCH", path, json),
  delete: (path, json) => call("DELETE", path, json),
  /** A POST that has a mail sent; see `sendForMail`. */
  postForMail: (path, json) => call("POST", path, json, sendForMail),
};
