"""The WebSocket engine: channels, topics, and the hub that connects them."""

from app.realtime.channel import Channel, on
from app.realtime.hub import EventHub, Hub
from app.realtime.messages import Message, Position
from app.realtime.outbox import Overflow
from app.realtime.presence import Member
from app.realtime.pull import Events, WaitSeconds, follow, pull
from app.realtime.since import Since, SinceEvent
from app.realtime.snapshot import Snapshot
from app.realtime.topics import Address, Topic

__all__ = [
    "Address",
    "Channel",
    "EventHub",
    "Events",
    "Hub",
    "Member",
    "Message",
    "Overflow",
    "Position",
    "Since",
    "SinceEvent",
    "Snapshot",
    "Topic",
    "WaitSeconds",
    "follow",
    "on",
    "pull",
]
