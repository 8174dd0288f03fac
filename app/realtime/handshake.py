"""What happens before a channel takes a WebSocket over: the subprotocol, and a frame that is due.

Some clients cannot prove in the handshake that they may come. They are accepted, and nothing is
done for them before their first frame has come.
"""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.core.auth import CREDENTIAL_SUBPROTOCOLS
from app.core.schemas import Schema
from app.realtime.messages import InvalidFrame, decode

M = TypeVar("M", bound=Schema)


def chosen_subprotocol(websocket: WebSocket, spoken: Iterable[str]) -> str | None:
    """The first of the client's subprotocols that is spoken.

    Those that announce a credential are echoed only where nothing else is spoken.
    """
    offered: list[str] = websocket.scope.get("subprotocols", [])
    chosen = [name for name in offered if name in (*spoken, *CREDENTIAL_SUBPROTOCOLS)]
    return min(chosen, key=lambda name: name in CREDENTIAL_SUBPROTOCOLS, default=None)


async def first_message(
    websocket: WebSocket, kind: str, model: type[M], *, subprotocol: str | None, seconds: float
) -> M | None:
    """Accept a handshake, and return the data of the first frame where that is of type `kind`.

    None where something else comes first, or nothing within `seconds`. A Channel is not told, and
    goes on with what comes after it. Raises WebSocketDisconnect.
    """
    await websocket.accept(subprotocol)
    try:
        async with asyncio.timeout(seconds):
            message = await websocket.receive()
    except TimeoutError:
        return None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or 1005)
    try:
        envelope = decode(message.get("text") or "")
        return model.model_validate(envelope.data) if envelope.type == kind else None
    except (InvalidFrame, ValidationError):
        return None
