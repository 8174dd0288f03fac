"""Django Channels on uvicorn, with the in-memory layer or the one on Redis."""

import sys
from typing import Any

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

from bench.dialects import GROUP
from bench.servers import PREFIX, peer, serve


class Listener(AsyncJsonWebsocketConsumer):  # type: ignore[misc] # untyped
    """Hears what is said in the group."""

    async def connect(self) -> None:
        """Join the group, then say so."""
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()
        await self.send_json({"type": "welcome"})

    async def disconnect(self, code: int) -> None:
        """Leave the group."""
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def said(self, event: dict[str, Any]) -> None:
        """Send on what the group was told."""
        await self.send_json({"type": "said", "text": event["text"]})


class Speaker(AsyncJsonWebsocketConsumer):  # type: ignore[misc] # untyped
    """Tells the group."""

    async def connect(self) -> None:
        """Take anybody."""
        await self.accept()
        await self.send_json({"type": "welcome"})

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        """Tell the group, and acknowledge."""
        await self.channel_layer.group_send(GROUP, {"type": "said", "text": content["text"]})
        await self.send_json({"type": "ack", "ref": content["ref"]})


def main(redis: str) -> None:
    """Serve over Redis at this address, or within the process where it is empty."""
    layer: dict[str, Any] = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    if redis:
        layer = {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # redis-py's own limit of connections is met where hundreds of sockets close at once.
            "CONFIG": {
                "hosts": [{"address": redis, "max_connections": 10_000}],
                "prefix": PREFIX,
            },
        }
    settings.configure(
        SECRET_KEY="not-used",  # noqa: S106 - Django wants one; nothing here is signed
        INSTALLED_APPS=["channels"],
        CHANNEL_LAYERS={"default": layer},
    )
    django.setup()
    routes = [path("listen", Listener.as_asgi()), path("speak", Speaker.as_asgi())]
    serve(peer(ProtocolTypeRouter({"websocket": URLRouter(routes)})))


if __name__ == "__main__":
    main(*sys.argv[1:])
