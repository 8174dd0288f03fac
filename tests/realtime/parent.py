"""A channel to inherit from in another module, with names that only this one knows."""

from typing import Annotated

from fastapi import Depends

from app.realtime import Channel, Message, on

Things = list[str]


class Thing(Message):
    """A thing."""

    type = "thing"


async def _things() -> Things:
    return ["one", "two"]


class ParentChannel(Channel):
    """Knows things."""

    things: "Annotated[Things, Depends(_things)]"

    @on
    async def thing(self, message: "Thing") -> None:
        """Take a thing."""
