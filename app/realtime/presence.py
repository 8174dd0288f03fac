"""Who is in a topic, in every process, without asking anybody when it is wanted.

Each process tells the others who comes and goes on it, with a number that counts its changes, and
says each second that it lives. Who finds a number missing asks for the whole list. A process that
says nothing for some seconds is gone, and with it everybody who was there; while this process
itself hears nobody, nobody is given up.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from app.core.schemas import Schema
from app.realtime.messages import Broadcast, Encoded, encode

MAX_TOLD = 100  # changes at once; a larger crowd is told the number and asks for the list
TELL_SECONDS, CROWD_SECONDS = 0.05, 1.0  # how long changes are gathered
CHUNK = 500  # members in one message between processes


class Member(Schema):
    """One connection that is in a topic: whose it is, and what its channel tells of it."""

    connection: str
    subject: str | None
    info: dict[str, Any] | None = None


class PresenceChanged(Broadcast):
    """Who came and who went, for a topic's subscribers; `count` are there now.

    Where too many changed at once both are None: ask for the list.
    """

    __slots__ = ("count", "joined", "left", "topic")

    def __init__(
        self,
        topic: str,
        joined: tuple[Member, ...] | None,
        left: tuple[Member, ...] | None,
        count: int,
    ) -> None:
        super().__init__()
        self.topic = topic
        self.joined = joined
        self.left = left
        self.count = count

    def encode(self) -> Encoded:
        """`{type: presence.changed, topic, data: {count, joined?, left?}}`; left: connections."""
        data: dict[str, Any] = {"count": self.count}
        if self.joined is not None and self.left is not None:
            data["joined"] = [member.model_dump() for member in self.joined]
            data["left"] = [member.connection for member in self.left]
        return encode("presence.changed", data, topic=self.topic)


class News(Schema):
    """What one process tells the others.

    Args:
        node: who tells it, a new name for each start.
        version: counts the changes, from 1 and this one included; 0 where the node leaves.
        joined: topic and member, for each that came.
        left: topic and connection, for each that went.
        whole: the list begins anew with this message.
        ask: for whose list it asks; * for everybody's.
    """

    node: str
    version: int
    joined: tuple[tuple[str, Member], ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    whole: bool = False
    ask: str | None = None


Members = dict[str, dict[str, Member]]  # by topic and connection
_NEWS = TypeAdapter(News)


class Way(Protocol):
    """How far the other processes can be heard."""

    @property
    def connected(self) -> bool:
        """Whether messages arrive right now."""


@dataclass(slots=True)
class Node:
    """Another process, as far as it has been heard."""

    version: int = -1
    heard: float = 0.0
    members: Members = field(default_factory=lambda: defaultdict(dict))


class Presence:
    """Who is where: the members of this process, and those of the others as they tell it.

    Args:
        tell: hands a change to the subscribers of a topic here.
        send: sends to every other process.
        way: whether those can be heard.
        clock: seconds, for who has not been heard.
    """

    BEAT_SECONDS = 1.0
    SILENT_SECONDS = 4.0

    def __init__(
        self,
        tell: Callable[[str, Broadcast], None],
        send: Callable[[bytes], None],
        way: Way,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._send = send
        self._way = way
        self._clock = clock
        self._mine = Node(version=1)  # 0 says that it leaves
        self._name = uuid4().hex
        self._others: dict[str, Node] = {}
        self._deaf_since: float | None = None
        self._untold: dict[str, dict[str, tuple[Member, bool]]] = {}  # by topic and connection

    def members(self, topic: str) -> list[Member]:
        """Who is in the topic."""
        return [each for node in self._nodes() for each in node.members.get(topic, {}).values()]

    def _nodes(self) -> Iterable[Node]:
        return (self._mine, *self._others.values())

    def enter(self, topic: str, member: Member) -> Callable[[], None]:
        """Let a member of this process be seen; returns what ends that."""
        self._apply(self._mine, [(topic, member)], [])
        self._report(joined=((topic, member),))

        def leave() -> None:
            if member.connection in self._mine.members.get(topic, {}):
                self._apply(self._mine, [], [(topic, member.connection)])
                self._report(left=((topic, member.connection),))

        return leave

    def ask(self) -> None:
        """Ask every other process for its list."""
        self._say(News(node=self._name, version=self._mine.version, ask="*"))

    def leave(self) -> None:
        """Tell the others that this process ends."""
        self._say(News(node=self._name, version=0, whole=True))

    async def beat(self) -> None:
        """Say that this process lives, and give up those that no longer say it."""
        now = self._clock()
        self._say(News(node=self._name, version=self._mine.version))
        if not self._way.connected:
            self._deaf_since = now
        elif self._deaf_since is not None and now - self._deaf_since > self.SILENT_SECONDS:
            self._deaf_since = None
        if self._deaf_since is None:
            for name, node in list(self._others.items()):
                if now - node.heard > self.SILENT_SECONDS:
                    self._give_up(name)

    def received(self, payload: bytes) -> None:
        """Take what another process tells."""
        try:
            news = _NEWS.validate_json(payload)
        except ValidationError:
            return  # of another release: its beats will have us ask
        if news.ask in (self._name, "*"):
            self._tell_all()
        if news.whole and news.version == 0:
            self._give_up(news.node)
            return
        node = self._others.setdefault(news.node, Node())
        node.heard = self._clock()
        changes = len(news.joined) + len(news.left)
        if news.whole:
            gone = [(topic, name) for topic, those in node.members.items() for name in those]
            kept = {(topic, member.connection) for topic, member in news.joined}
            self._apply(node, news.joined, [each for each in gone if each not in kept])
            node.version = news.version
        elif node.version + changes == news.version:
            self._apply(node, news.joined, news.left)
            node.version = news.version
        elif node.version != news.version:
            self._say(News(node=self._name, version=self._mine.version, ask=news.node))

    def _tell_all(self) -> None:
        """The whole list, in messages of a bearable size."""
        everybody = [
            (topic, member)
            for topic, those in self._mine.members.items()
            for member in those.values()
        ]
        version = self._mine.version
        for first in range(0, max(1, len(everybody)), CHUNK):
            some = tuple(everybody[first : first + CHUNK])
            left_out = max(0, len(everybody) - first - CHUNK)
            news = News(node=self._name, version=version - left_out, joined=some, whole=first == 0)
            self._say(news)

    def _report(
        self,
        joined: tuple[tuple[str, Member], ...] = (),
        left: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._mine.version += len(joined) + len(left)
        self._say(News(node=self._name, version=self._mine.version, joined=joined, left=left))

    def _say(self, news: News) -> None:
        self._send(news.model_dump_json(exclude_defaults=True).encode())

    def _give_up(self, name: str) -> None:
        node = self._others.pop(name, None)
        if node:
            gone = [(topic, each) for topic, those in node.members.items() for each in those]
            self._apply(node, [], gone)

    def _apply(
        self, node: Node, joined: Iterable[tuple[str, Member]], left: Iterable[tuple[str, str]]
    ) -> None:
        """Change a node's list, and note what is new in it."""
        for topic, connection in left:
            if member := node.members.get(topic, {}).pop(connection, None):
                self._note(topic, member, came=False)
                if not node.members[topic]:
                    del node.members[topic]
        for topic, member in joined:
            if node.members[topic].get(member.connection) != member:
                node.members[topic][member.connection] = member
                self._note(topic, member, came=True)

    def _note(self, topic: str, member: Member, *, came: bool) -> None:
        """Tell the topic's subscribers soon, of all that changes until then."""
        if topic not in self._untold:
            self._untold[topic] = {}
            crowd = sum(len(each.members.get(topic, ())) for each in self._nodes())
            wait = CROWD_SECONDS if crowd > MAX_TOLD else TELL_SECONDS
            asyncio.get_running_loop().call_later(wait, self._tell_changes, topic)
        untold = self._untold[topic]
        if member.connection in untold and untold[member.connection][1] != came:
            del untold[member.connection]  # came and went
        else:
            untold[member.connection] = (member, came)

    def _tell_changes(self, topic: str) -> None:
        untold = self._untold.pop(topic, {})
        if not untold:
            return
        few = len(untold) <= MAX_TOLD
        joined = tuple(member for member, came in untold.values() if came)
        left = tuple(member for member, came in untold.values() if not came)
        count = sum(len(each.members.get(topic, ())) for each in self._nodes())
        changed = PresenceChanged(topic, joined if few else None, left if few else None, count)
        self._tell(topic, changed)
