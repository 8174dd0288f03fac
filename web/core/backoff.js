/**
 * How long to wait before the next attempt: doubling from half a second to half a minute, each
 * wait shortened by chance so that a restarted server does not meet all its clients at once.
 */
export class Backoff {
  #attempt = 0;

  /** Milliseconds to wait, at least `floor` of them. */
  next(floor = 0) {
    const longest = Math.min(30_000, 500 * 2 ** this.#attempt);
    this.#attempt += 1;
    return Math.max(floor, longest * (0.5 + Math.random() / 2));
  }

  reset() {
    this.#attempt = 0;
  }
}
