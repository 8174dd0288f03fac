"""The backplane over Redis: pub/sub on two connections that live and fail together.

Sharded pub/sub (Redis 7) where the server has it, else plain. Pub/sub knows no database numbers,
so every channel has a prefix. A message is `HEADER`, the id of the node that sent it, and what it
sent.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple
from uuid import uuid4

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import RedisError, ResponseError

from app.core.observability import log, report
from app.realtime.backplane import Receiver

HEADER = b"dpx1"
CONNECT_SECONDS = 1.0  # for both connections, from the address to the first answer
RETRY_SECONDS = 0.5
BEAT_SECONDS = 0.2
SILENT_BEATS = 4  # so many without a word on either connection: it hangs
FLUSH_SECONDS = 1.0
QUEUE_BYTES = 4 * 1024 * 1024
BATCH_BYTES = 256 * 1024
ENTRY_BYTES = 128  # what an entry of the queue costs beside its bytes
CHANNELS_AT_ONCE = 500
TURN_SECONDS = 0.01  # of handing over what has come; then it is the turn of others

#: Over whatever the address says: the replies are read here, and nothing is tried twice below.
OPTIONS: dict[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": None,  # the beats see to it, and do not take a busy loop for silence
    "health_check_interval": 0,
    "retry_on_timeout": False,
}


class _Commands(NamedTuple):
    subscribe: bytes
    unsubscribe: bytes
    publish: bytes
    subscribed: bytes
    message: bytes


SHARDED = _Commands(b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"SPUBLISH", b"ssubscribe", b"smessage")
PLAIN = _Commands(b"SUBSCRIBE", b"UNSUBSCRIBE", b"PUBLISH", b"subscribe", b"message")


class _Subscriptions:
    """What is wanted, what the server has been asked for, and what it has confirmed."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.changed = asyncio.Event()
        self._changes: set[str] = set()
        self._asked: set[str] = set()
        self._unanswered: Counter[str] = Counter()
        self.open = False  # whether there is a connection to ask

    def want(self, channel: str, wanted: bool) -> None:
        """Note what is wanted, to be asked for soon."""
        (self.wanted.add if wanted else self.wanted.discard)(channel)
        if self.open:
            self._changes.add(channel)
            self.changed.set()

    def begin(self) -> None:
        """Ask a new connection for everything."""
        self._asked.clear()
        self._unanswered.clear()
        self._changes = set(self.wanted)
        self.open = True
        self.changed.set()

    def end(self) -> None:
        """Note no changes while there is no connection."""
        self.open = False
        self._changes.clear()

    def take(self) -> tuple[list[str], list[str], list[str]]:
        """What to subscribe to, what to unsubscribe from, and what was wanted again meanwhile."""
        self.changed.clear()
        changes, self._changes = self._changes, set()
        wanted = changes & self.wanted
        new = wanted - self._asked
        old = (changes - self.wanted) & self._asked
        known = [each for each in wanted - new if not self._unanswered[each]]
        self._asked |= new
        self._asked -= old
        self._unanswered.update(new)
        return list(new), list(old), known

    def confirm(self, channel: str) -> bool:
        """Take a confirmation; whether it is the last word, so that nothing is missed from it."""
        self._unanswered[channel] -= 1
        if self._unanswered[channel] > 0:
            return False
        del self._unanswered[channel]
        return channel in self._asked and channel in self.wanted


class _Queue:
    """What waits to be sent, bounded in bytes; a beat goes before it, and is not part of it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._under_way = 0
        self._beat: tuple[bytes, bytes] | None = None
        self._filled = asyncio.Event()
        self.sent = asyncio.Event()
        self.sent.set()

    def put(self, name: bytes, payload: bytes) -> bool:
        """Take a message; whether there was room."""
        size = len(name) + len(payload) + ENTRY_BYTES
        if self._size + size > self._limit:
            return False
        self._size += size
        self._waiting.append((name, payload))
        self._filled.set()
        self.sent.clear()
        return True

    def put_beat(self, name: bytes, payload: bytes) -> None:
        """Send this next."""
        self._beat = name, payload
        self._filled.set()

    async def batch(self) -> list[tuple[bytes, bytes]]:
        """Wait for something to send; what to send at once."""
        await self._filled.wait()
        self._filled.clear()
        batch = [self._beat] if self._beat else []
        self._beat = None
        beats, size = len(batch), 0
        while self._waiting and size < BATCH_BYTES:
            name, payload = self._waiting.popleft()
            size += len(name) + len(payload) + ENTRY_BYTES
            batch.append((name, payload))
        self._size -= size
        self._under_way = len(batch) - beats
        if self._waiting:
            self._filled.set()
        return batch

    def done(self) -> None:
        """The batch has been taken by the server."""
        self._under_way = 0
        if not self._waiting:
            self.sent.set()

    def clear(self) -> int:
        """Forget everything; how many messages that were, with those of an unanswered batch."""
        forgotten = len(self._waiting) + self._under_way
        self._waiting.clear()
        self._size = self._under_way = 0
        self._beat = None
        self._filled.clear()
        self.sent.set()
        return forgotten


class RedisBackplane:
    """The backplane of several processes that share a Redis.

    Args:
        url: redis://, rediss:// or unix://, with the options of redis-py.
        prefix: what its channels begin with; processes with another one do not hear of it.
        queue_bytes: how much may wait to be sent.
    """

    def __init__(self, url: str, prefix: str, *, queue_bytes: int = QUEUE_BYTES) -> None:
        self._options: dict[str, Any] = {**parse_url(url), **OPTIONS}
        self._kind: type[AbstractConnection] = self._options.pop("connection_class", Connection)
        self._prefix = f"{prefix}:".encode()
        node = uuid4()
        self._head = HEADER + node.bytes
        self._beat = self._prefix + b"beat:" + node.hex.encode()
        self._subscriptions = _Subscriptions()
        self._queue = _Queue(queue_bytes)
        self._receiver: Receiver | None = None
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self._lost = False
        self._silent_beats = {"receiving": 0, "sending": 0}
        self.dropped = 0  # messages of this node that may not have been sent

    @property
    def connected(self) -> bool:
        """Whether messages reach other processes: this one hears itself."""
        return self._connected

    async def start(self, receiver: Receiver) -> None:
        """Begin to connect; returns at once."""
        self._receiver = receiver
        self._task = asyncio.create_task(self._run(), name="backplane")

    async def stop(self) -> None:
        """Send what waits, for a second at most, and disconnect."""
        if self._task is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._queue.sent.wait()
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = None

    def subscribe(self, channel: str) -> None:
        """Hear what is sent on the channel; never waits."""
        self._subscriptions.want(channel, True)

    def unsubscribe(self, channel: str) -> None:
        """Hear no more of it; never waits."""
        self._subscriptions.want(channel, False)

    def send(self, channel: str, payload: bytes) -> None:
        """Send to the other processes; dropped without a connection, and where too much waits."""
        waits = self._subscriptions.open and self._queue.put(
            self._name(channel), self._head + payload
        )
        if not waits:
            self.dropped += 1

    async def _run(self) -> None:
        while True:
            try:
                await self._live()
            except Exception as error:
                self._note_loss(error)
            jitter = random.uniform(0.5, 1)  # noqa: S311 - nodes shall not come back in step
            await asyncio.sleep(RETRY_SECONDS * jitter)

    async def _live(self) -> None:
        """Connect, and work until something fails; raises that."""
        receiving, sending = (self._kind(**self._options) for _ in range(2))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                for each in (receiving, sending):
                    await each.connect()  # type: ignore[no-untyped-call] # redis-py's own
                commands = await _known_commands(sending)
            self._subscriptions.begin()
            self._silent_beats = dict.fromkeys(self._silent_beats, 0)
            await _until_one_fails(
                self._receive(receiving, commands),
                self._ask(receiving, commands),
                self._send(sending, commands),
                self._watch(),
            )
        finally:
            self._connected = False
            self._subscriptions.end()
            self.dropped += self._queue.clear()
            await receiving.disconnect(nowait=True)
            await sending.disconnect(nowait=True)

    async def _receive(self, connection: AbstractConnection, commands: _Commands) -> None:
        confirmed: list[str] = []
        turn = time.monotonic()
        while True:
            if time.monotonic() - turn > TURN_SECONDS:
                await asyncio.sleep(0)  # reading does not wait while there is something to read
                turn = time.monotonic()
            reply = await connection.read_response(disable_decoding=True)
            self._silent_beats["receiving"] = 0
            if not isinstance(reply, list) or len(reply) != 3:
                continue
            kind, name, content = reply
            if kind == commands.subscribed:
                if name != self._beat and self._subscriptions.confirm(self._channel(name)):
                    confirmed.append(self._channel(name))
                if not confirmed or await connection.can_read():
                    continue  # many at once are told at once
            if confirmed:
                self._tell_subscribed(confirmed)
                confirmed = []
            if kind == commands.message:
                self._take(name, content)

    def _take(self, name: bytes, content: bytes) -> None:
        if content.startswith(self._head):
            if name == self._beat:
                self._note_connected()
            return
        start = len(self._head)
        channel = self._channel(name)
        if (
            self._receiver
            and content.startswith(HEADER)
            and len(content) >= start
            and channel in self._subscriptions.wanted
        ):
            try:
                self._receiver.received(channel, content[start:])
            except Exception as error:
                report(error)

    def _tell_subscribed(self, channels: list[str]) -> None:
        if self._receiver and channels:
            try:
                self._receiver.subscribed(channels)
            except Exception as error:
                report(error)

    async def _ask(self, connection: AbstractConnection, commands: _Commands) -> None:
        # After all that is wanted: whoever hears the beat hears the rest.
        beat = [(commands.subscribe, self._beat)]
        while True:
            await self._subscriptions.changed.wait()
            new, old, known = self._subscriptions.take()
            asked = [
                *((commands.unsubscribe, *names) for names in self._names(old)),
                *((commands.subscribe, *names) for names in self._names(new)),
                *beat,
            ]
            beat = []
            self._tell_subscribed(known)
            if asked:
                packed = connection.pack_commands(asked)
                await connection.send_packed_command(packed, check_health=False)

    async def _send(self, connection: AbstractConnection, commands: _Commands) -> None:
        while True:
            batch = await self._queue.batch()
            packed = connection.pack_commands((commands.publish, *each) for each in batch)
            await connection.send_packed_command(packed, check_health=False)
            for _ in batch:
                await connection.read_response()
            self._silent_beats["sending"] = 0
            self._queue.done()

    async def _watch(self) -> None:
        """Send beats; raises TimeoutError when nothing has come back for several of them."""
        while True:
            for what, beats in self._silent_beats.items():
                if beats >= SILENT_BEATS:
                    raise TimeoutError(f"nothing is heard on the {what} connection")
                self._silent_beats[what] = beats + 1
            self._queue.put_beat(self._beat, self._head)
            await asyncio.sleep(BEAT_SECONDS)

    def _note_connected(self) -> None:
        if not self._connected:
            self._connected = True
            if self._lost:
                log.info("backplane is back", dropped=self.dropped)
            self._lost = False

    def _note_loss(self, error: Exception) -> None:
        if not self._lost:
            text = str(error) or "no answer in time"
            log.warning("backplane is lost", reason=f"{type(error).__name__}: {text}")
            if not isinstance(error, RedisError | OSError):
                report(error)
        self._lost = True

    def _name(self, channel: str) -> bytes:
        return self._prefix + channel.encode("utf-8", "surrogatepass")

    def _channel(self, name: bytes) -> str:
        return name[len(self._prefix) :].decode("utf-8", "surrogatepass")

    def _names(self, channels: list[str]) -> Iterator[tuple[bytes, ...]]:
        """The names of the channels, as many at once as one command shall have."""
        names = map(self._name, channels)
        while part := tuple(islice(names, CHANNELS_AT_ONCE)):
            yield part


async def _known_commands(connection: AbstractConnection) -> _Commands:
    """The pub/sub to use: a cluster would redirect what is sharded, an old server lacks it."""
    await connection.send_command("HELLO")
    try:
        reply = await connection.read_response(disable_decoding=True)
    except ResponseError:  # before Redis 6
        return PLAIN
    about = dict(zip(reply[::2], reply[1::2], strict=True))
    major = int(about[b"version"].split(b".")[0])
    return SHARDED if major >= 7 and about[b"mode"] != b"cluster" else PLAIN


async def _until_one_fails(*works: Coroutine[Any, Any, None]) -> None:
    """Run all of them until one raises, and raise that."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
