"""uvicorn's WebSocket protocol, which does not keep a peer that does not read.

uvicorn waits for such a peer for ever: what is unsent, the file descriptor and whoever awaits
`send` stay with it, through its own ping timeout too.
"""

import asyncio
import sys
from contextlib import suppress
from typing import Any

from app.core.metrics import count_eviction
from app.core.observability import log

try:
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
except ImportError:  # another uvicorn: see `websocket_protocol`
    WebSocketsSansIOProtocol = asyncio.Protocol  # type: ignore[assignment,misc]

try:
    import fcntl
    import termios
except ImportError:  # not on Windows
    fcntl = termios = None  # type: ignore[assignment]

UNREAD_SECONDS = 8.0  # and a little more, as it is looked at in steps: within ten

# What is overridden or used below: uvicorn promises none of it.
NEEDED = {
    *("connection_made", "connection_lost", "pause_writing", "resume_writing", "shutdown"),
    *("handle_connect", "handle_ping", "keepalive_timeout"),
    *("conn", "loop", "transport", "writable", "handshake_initiated", "handshake_complete"),
}


class WireProtocol(WebSocketsSansIOProtocol):
    """Aborts a peer whose unsent bytes have not become fewer for UNREAD_SECONDS.

    The application finds `abort()` in `scope["duplex.abort"]`: it ends the connection at once.
    """

    _looking: asyncio.TimerHandle | None = None
    _unsent = 0
    _progress = 0.0
    _pong = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; from the first byte that the kernel does not take, writing is paused."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        self._stop_looking()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Make whoever sends wait, and look whether the peer reads."""
        super().pause_writing()
        self._unsent = self._on_the_way()
        self._progress = self.loop.time()
        self._look_later()

    def resume_writing(self) -> None:
        """Let them send, and answer the newest ping."""
        self._stop_looking()
        super().resume_writing()
        if self._pong and not self.transport.is_closing():
            pong, self._pong = self._pong, b""
            self.transport.write(pong)

    def handle_connect(self, event: Any) -> None:
        """Start the application, which may abort the connection."""
        super().handle_connect(event)
        if self.handshake_initiated and not self.handshake_complete:
            self.scope["duplex.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def handle_ping(self) -> None:
        """Answer a ping; of those that come while the peer reads nothing, the newest alone.

        RFC 6455 section 5.5.3 lets it be so, and pongs without end would fill the memory.
        """
        if self.writable.is_set():
            super().handle_ping()
            return
        for pong in self.conn.data_to_send():  # of all pings that have come at once
            self._pong = pong or self._pong

    def keepalive_timeout(self) -> None:
        """Close a peer that has sent no pong; it has nothing to read where it does not read."""
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def shutdown(self) -> None:
        """Close as the server ends; what is being closed already has had its time."""
        if self.transport.is_closing():
            self.transport.abort()
        else:
            super().shutdown()

    def _look_later(self) -> None:
        self._looking = self.loop.call_later(UNREAD_SECONDS / 16, self._look)

    def _look(self) -> None:
        unsent = self._on_the_way()
        if unsent < self._unsent:
            self._progress = self.loop.time()
        self._unsent = unsent
        if self.loop.time() - self._progress >= UNREAD_SECONDS:
            self._looking = None
            count_eviction("unread")
            self.transport.abort()
        else:
            self._look_later()

    def _on_the_way(self) -> int:
        """Bytes that the peer has not acknowledged.

        The kernel's count too: it asks for more only when much of its buffer is free again, and
        with a slow peer, which does read, that takes long.
        """
        size = self.transport.get_write_buffer_size()
        if sock := self.transport.get_extra_info("socket"):
            with suppress(OSError, AttributeError):  # or it does not tell
                queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
                size += int.from_bytes(queued, sys.byteorder)
        return size

    def _stop_looking(self) -> None:
        if self._looking:
            self._looking.cancel()
            self._looking = None


def websocket_protocol(base: type = WebSocketsSansIOProtocol) -> type[asyncio.Protocol] | str:
    """What uvicorn is to speak WebSocket with: WireProtocol, or its own where that has changed."""
    made = vars(base).get("__init__")
    known = {*vars(base), *(made.__code__.co_names if made else ())}
    if missing := NEEDED - known:
        log.warning("uvicorn has changed: peers that do not read are kept", missing=sorted(missing))
        return "websockets-sansio"
    return WireProtocol
