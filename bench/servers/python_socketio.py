"""python-socketio on uvicorn, with its own manager or the one on Redis."""

import sys

import socketio

from bench.dialects import GROUP
from bench.servers import PREFIX, peer, serve


def main(redis: str) -> None:
    """Serve over Redis at this address, or within the process where it is empty."""
    manager = socketio.AsyncRedisManager(redis, channel=PREFIX) if redis else None
    sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager)

    async def join(sid: str) -> None:
        await sio.enter_room(sid, GROUP)

    async def say(sid: str, text: str) -> None:
        await sio.emit("said", {"text": text}, room=GROUP)

    sio.on("join", join)
    sio.on("say", say)
    serve(peer(socketio.ASGIApp(sio)))


if __name__ == "__main__":
    main(*sys.argv[1:])
