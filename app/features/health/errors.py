"""Errors of the health checks."""

from app.core.errors import Unavailable


class NotReady(Unavailable):
    """The process lives, and something that it needs does not answer."""

    code = "health.not_ready"
    title = "Not ready for requests."
