/**
 * What the service says when it refuses: an RFC 9457 problem, the same object in an HTTP answer
 * and in an error frame, thrown here as an Error.
 */
export class Problem extends Error {
  constructor(fields) {
    super(fields.title ?? "Something went wrong.");
    this.name = "Problem";
    this.title = this.message;
    this.detail = fields.detail ?? null;
    this.status = fields.status ?? null;
    this.code = fields.code ?? null;
    this.requestId = fields.request_id ?? null;
    this.retryAfter = fields.retry_after ?? null;
    this.errors = fields.errors ?? [];
  }

  /** Reads the problem out of an HTTP answer; a proxy's HTML becomes a problem without a code. */
  static async of(response) {
    const type = response.headers.get("Content-Type") ?? "";
    const known = type.startsWith("application/problem+json");
    const fields = known ? await response.json().catch(() => ({})) : {};
    return new Problem({
      title: `The server answered ${response.status}.`,
      status: response.status,
      request_id: response.headers.get("X-Request-ID"),
      ...fields,
    });
  }

  /** No answer came at all. */
  static unreachable() {
    return new Problem({
      title: "The server cannot be reached.",
      detail: "Check the network, or whether the server is running, and try again.",
    });
  }

  /** Nobody is signed in in this tab any more. */
  static signedOut() {
    return new Problem({ title: "You are signed out.", detail: "Log in to go on." });
  }

  /** The live connection is down, so nothing can be sent on it. */
  static disconnected() {
    return new Problem({
      title: "Not connected.",
      detail: "Nothing was sent. Your text is kept; send it again when the room is live.",
    });
  }

  /** The messages of a validation error, by the name of the field each belongs to. */
  get byField() {
    const messages = new Map();
    for (const { loc, msg } of this.errors) {
      const field = String(loc.at(-1) ?? "");
      messages.set(field, [...(messages.get(field) ?? []), msg]);
    }
    return messages;
  }
}

/** The connection went before the reply came: what was asked may have been done or not. */
export class Unanswered extends Problem {
  constructor() {
    super({
      title: "The connection was lost before the answer came.",
      detail: "Whether it was done shows when the connection is back.",
    });
  }
}
