"""Errors that only a WebSocket can meet. Any channel may raise them."""

from app.core.errors import AppError, Unavailable


class UnknownMessageType(AppError):
    """The channel has no handler for frames of this type."""

    status = 404
    code = "realtime.unknown_type"
    title = "This channel knows no message of this type."
    everywhere = True


class InboxOverflow(AppError):
    """The client sends faster than its frames are handled; this frame was not taken."""

    status = 429
    code = "realtime.inbox_overflow"
    title = "Frames arrive faster than they can be handled."
    retryable = True
    everywhere = True


class TooManyErrors(AppError):
    """Too many frames in a row were not valid; the socket is closed."""

    status = 429
    code = "realtime.too_many_errors"
    title = "Too many invalid frames."
    everywhere = True


class SlowConsumer(Unavailable):
    """The client reads more slowly than it is sent to; the socket is closed."""

    code = "realtime.slow_consumer"
    title = "This client reads too slowly."


class SubjectChanged(AppError):
    """The new token is somebody else's: a socket stays with who opened it."""

    status = 403
    code = "realtime.subject_changed"
    title = "The token belongs to somebody else."
    everywhere = True


class PositionLost(AppError):
    """What follows the client's position is gone from the log: it reads the state anew."""

    status = 409
    code = "realtime.position_lost"
    title = "Events that this client has not seen are gone: start over."
    retryable = True
    everywhere = True
