"""What each service speaks over its WebSockets, as far as the client has to know it."""

import json
from collections.abc import Callable
from dataclasses import dataclass

GROUP = "bench"  # the topic, the group, the room


@dataclass(frozen=True, slots=True)
class Dialect:
    """One service's words.

    `hello` is what a new socket goes through: something to send, if anything, and what the frame
    that answers it has in it. `publication` builds what a publisher sends, of an action, a number
    and a text; an acknowledgement begins with `acknowledged`.
    """

    listen: dict[str, str]  # where to hear what the action publishes
    speak: str
    greeting: tuple[tuple[str, str], ...]
    joining: tuple[tuple[str, str], ...]
    publication: Callable[[str, int, str], str]
    acknowledged: bytes
    ping: bytes = b""  # a heartbeat in frames of the service's own, where it has one
    pong: str = ""


def _duplex(action: str, number: int, text: str) -> str:
    return json.dumps({"type": action, "ref": number, "data": {"text": text}})


def _channels(action: str, number: int, text: str) -> str:
    return json.dumps({"type": action, "ref": number, "text": text})


def _socketio(action: str, number: int, text: str) -> str:
    return f"42{number}{json.dumps([action, text])}"


_SOCKETIO = "/socket.io/?EIO=4&transport=websocket"

DIALECTS = {
    "duplex": Dialect(
        listen={"say": f"/bench/{GROUP}/listen", "record": f"/bench/{GROUP}/follow"},
        speak="/bench/speak",
        greeting=(("", '"welcome"'),),
        joining=(),
        publication=_duplex,
        acknowledged=b'{"type":"ack"',
    ),
    "django_channels": Dialect(
        listen={"say": "/listen"},
        speak="/speak",
        greeting=(("", '"welcome"'),),
        joining=(),
        publication=_channels,
        acknowledged=b'{"type": "ack"',
    ),
    "python_socketio": Dialect(
        listen={"say": _SOCKETIO},
        speak=_SOCKETIO,
        greeting=(("", "0{"), ("40", "40{")),
        joining=(('420["join"]', "430["),),
        publication=_socketio,
        acknowledged=b"43",
        ping=b"2",
        pong="3",
    ),
}
