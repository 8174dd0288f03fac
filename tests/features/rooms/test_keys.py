"""A room or a post that is asked for twice with one key is there once."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from tests.features.rooms.people import Person, code

KEY = {"Idempotency-Key": "2f1c"}


async def test_a_room_is_created_once(ann: Person, bob: Person) -> None:
    """The same key gets the same room, another name is refused, somebody else gets their own."""
    first = await ann.do("POST", json={"name": "Library"}, headers=KEY)
    again = await ann.do("POST", json={"name": " Library "}, headers=KEY)  # it is stripped
    assert (again.status_code, again.json()) == (201, first.json())
    other = await ann.do("POST", json={"name": "Kitchen"}, headers=KEY)
    assert (other.status_code, code(other)) == (422, "idempotency_key_reused")
    his = await bob.do("POST", json={"name": "Library"}, headers=KEY)
    assert his.json()["owner"] == bob.shown
    owners = [room["owner"] for room in (await ann.do("GET")).json()["items"]]
    assert [owners.count(person.shown) for person in (ann, bob)] == [1, 1]


async def test_of_twenty_posts_at_once_with_one_key_one_is_there(ann: Person, bob: Person) -> None:
    """Half of them in frames: everybody hears it once, and all get the one answer."""
    room = await ann.create()
    await bob.join(room)
    async with bob.socket(room) as listening, AsyncExitStack() as stack:
        await listening.until("welcome")
        sockets = [await stack.enter_async_context(ann.socket(room)) for _ in range(10)]
        for socket in sockets:
            await socket.until("welcome")

        async def over_rest() -> Any:
            path = f"/{room}/posts"
            return (await ann.do("POST", path, json={"text": "Hello."}, headers=KEY)).json()

        asked = [socket.ask("post", {"text": "Hello."}, key="2f1c") for socket in sockets]
        frames, answers = await asyncio.gather(
            asyncio.gather(*asked), asyncio.gather(*(over_rest() for _ in range(10)))
        )
        told = [frame["data"] for frame in frames] + answers
        assert told == [answers[0]] * 20
        assert len({frame["offset"] for frame in frames}) == 1
        assert (await listening.until("posted"))["data"] == answers[0]
        assert (await ann.post(room, "The next.")).status_code == 201
        assert (await listening.until("posted"))["data"]["text"] == "The next."
    assert len((await ann.history(room))["items"]) == 2


async def test_a_key_is_of_one_room(ann: Person) -> None:
    """The same text with it in another room is another request."""
    first, second = await ann.create(), await ann.create()
    for room, expected in ((first, 201), (second, 422), (first, 201)):
        answer = await ann.do("POST", f"/{room}/posts", json={"text": "Hello."}, headers=KEY)
        assert answer.status_code == expected


async def test_who_may_not_post_gets_no_answer_again_either(ann: Person, bob: Person) -> None:
    """Whoever left is refused at the door, with or without a key that was good."""
    room = await ann.create()
    await bob.join(room)
    for status in (201, 403):
        answer = await bob.do("POST", f"/{room}/posts", json={"text": "Hello."}, headers=KEY)
        assert answer.status_code == status
        await bob.do("DELETE", f"/{room}/members/me")
