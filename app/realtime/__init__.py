"""The WebSocket engine: channels, topics, and the hub that connects them."""

from app.realtime.channel import Channel, on
from app.realtime.hub import EventHub, Hub
from app.realtime.messages import Message
from app.realtime.topics import Address, Topic

__all__ = ["Address", "Channel", "EventHub", "Hub", "Message", "Topic", "on"]
