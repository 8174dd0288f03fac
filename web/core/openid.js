/**
 * What a page says to an OpenID provider as its public client: authorization code with PKCE
 * (RFC 6749, 7636, 9700), refresh tokens, and the way out. Each function throws a Problem.
 */
import { Problem } from "./problem.js";

const TIMEOUT = 15_000;
const DISCOVERY = "/.well-known/openid-configuration";
const known = new Map(); // an issuer -> its configuration

/** The provider's configuration (OpenID Connect Discovery 1.0), fetched once. */
export async function discover(issuer) {
  if (!known.has(issuer)) {
    const found = await ask(issuer.replace(/\/$/, "") + DISCOVERY);
    if (found.issuer !== issuer) throw wrong("It says that it is another issuer.");
    // The content security policy names the issuer's origin alone.
    const reached = URL.canParse(found.token_endpoint) && new URL(found.token_endpoint).origin;
    if (reached !== new URL(issuer).origin) throw wrong("Its token endpoint is at another origin.");
    known.set(issuer, found);
  }
  return known.get(issuer);
}

/**
 * Leads to the provider's log-in; the page is left. Returns what has to be kept until somebody
 * comes back: the state and the verifier.
 */
export async function attempt(client, redirect, more = {}) {
  if (!crypto.subtle) throw wrong("Open this page by https: only then can it log in.");
  const { authorization_endpoint: endpoint } = await discover(client.issuer);
  const [state, verifier] = [random(), random()];
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  const url = new URL(endpoint);
  const query = {
    response_type: "code",
    client_id: client.client_id,
    redirect_uri: redirect,
    scope: client.scope,
    state,
    code_challenge: base64url(new Uint8Array(digest)),
    code_challenge_method: "S256",
    ...meantFor(client),
    ...more,
  };
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return { url, state, verifier };
}

/** Trades the code that somebody has come back with for tokens. */
export async function exchange(client, redirect, answer, kept) {
  const found = await discover(client.issuer);
  if (answer.get("state") !== kept?.state || !isFrom(found, answer.get("iss"))) {
    throw wrong("Log in again.", "This log-in was not begun in this tab.");
  }
  if (answer.has("error")) {
    const said = [answer.get("error"), answer.get("error_description")].filter(Boolean);
    throw wrong(said.join(": "), "The identity provider did not log you in.");
  }
  return ask(found.token_endpoint, {
    grant_type: "authorization_code",
    client_id: client.client_id,
    code: answer.get("code"),
    code_verifier: kept.verifier,
    redirect_uri: redirect,
    ...meantFor(client),
  });
}

/** Trades a refresh token for other tokens; a Problem with 401 says that it is good no more. */
export async function renew(client, refreshToken) {
  const { token_endpoint: endpoint } = await discover(client.issuer);
  const form = { grant_type: "refresh_token", client_id: client.client_id, refresh_token: refreshToken };
  return ask(endpoint, { ...form, ...meantFor(client) });
}

/** Makes a refresh token void (RFC 7009), where the provider takes that. */
export async function revoke(client, refreshToken) {
  const { revocation_endpoint: endpoint } = await discover(client.issuer);
  const here = URL.canParse(endpoint) && new URL(endpoint).origin === new URL(client.issuer).origin;
  if (here) await ask(endpoint, { client_id: client.client_id, token: refreshToken });
}

/** Where somebody signs out at the provider (OpenID Connect RP-Initiated Logout), or null. */
export async function wayOut(client, redirect, idToken) {
  const { end_session_endpoint: endpoint } = await discover(client.issuer);
  if (!endpoint) return null;
  const url = new URL(endpoint);
  url.searchParams.set("client_id", client.client_id);
  url.searchParams.set("post_logout_redirect_uri", redirect);
  if (idToken) url.searchParams.set("id_token_hint", idToken);
  return url;
}

/** Whether an answer is the provider's, as far as it says whose it is (RFC 9207). */
function isFrom(found, issuer) {
  if (issuer === null) return !found.authorization_response_iss_parameter_supported;
  return issuer === found.issuer;
}

/** Which service the token is to be for: a resource (RFC 8707), or an audience where it is none. */
function meantFor({ audience }) {
  const isResource = URL.canParse(audience) && !audience.includes("#");
  return { audience, ...(isResource && { resource: audience }) };
}

async function ask(url, form = null) {
  const about = { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(TIMEOUT) };
  if (form) Object.assign(about, { method: "POST", body: new URLSearchParams(form) });
  let response;
  try {
    response = await fetch(url, { ...about, credentials: "omit", referrerPolicy: "no-referrer" });
  } catch {
    const detail = "Check the network, or whether it lets this page ask (CORS), and try again.";
    throw wrong(detail, "The identity provider cannot be reached.");
  }
  const text = await response.text();
  let said = null;
  try {
    said = text && JSON.parse(text);
  } catch {
    if (response.ok) throw wrong("Its answer is not JSON.");
  }
  if (!response.ok) throw refused(response.status, said);
  return said;
}

function refused(status, said) {
  const detail = [said?.error, said?.error_description].filter(Boolean).join(": ");
  const over = said?.error === "invalid_grant"; // RFC 6749, 5.2
  return new Problem({
    title: over ? "Your log-in is good no more." : `The identity provider answered ${status}.`,
    detail: detail || null,
    status: over ? 401 : status,
  });
}

function wrong(detail, title = "The identity provider cannot be used.") {
  return new Problem({ title, detail });
}

function random() {
  return base64url(crypto.getRandomValues(new Uint8Array(32)));
}

function base64url(bytes) {
  const text = btoa(String.fromCharCode(...bytes));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
