"""Rooms when much happens at once: what was decided first holds."""

import asyncio
from collections import Counter

from tests.features.rooms.people import Person, code


async def fill_pool(person: Person) -> None:
    """Let the server open its database connections: while it does, requests would take turns."""
    await asyncio.gather(*(person.do("GET") for _ in range(20)))


async def test_nothing_is_posted_once_the_room_is_archived(ann: Person, bob: Person) -> None:
    """Thirty posts race one archiving: what was accepted came before it, the rest is refused."""
    await fill_pool(ann)
    room = await ann.create()
    await bob.join(room)
    async with bob.socket(room) as socket:
        await socket.frame()
        attempts = [asyncio.create_task(bob.post(room, f"{number}")) for number in range(15)]
        await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
        archiving = asyncio.create_task(ann.do("POST", f"/{room}/archive"))
        attempts += [asyncio.create_task(bob.post(room, f"{number}")) for number in range(15, 30)]
        answers = await asyncio.gather(*attempts)
        assert (await archiving).json()["archived"] is True
        assert code(await bob.post(room)) == "rooms.read_only"
        await socket.send("ping", ref="end")
        heard = []
        while (frame := await socket.frame())["type"] != "pong":
            heard.append(frame)
    assert [frame["type"] for frame in heard].index("archived") == len(heard) - 1
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert {code(a) for a in answers if a.status_code != 201} <= {"rooms.read_only"}
    assert accepted == {frame["data"]["id"] for frame in heard[:-1]}
    assert accepted == {post["id"] for post in (await bob.history(room))["items"]}


async def test_joining_many_times_at_once_is_joining_once(ann: Person, bob: Person) -> None:
    """Ten requests of one person: each succeeds, one membership, one event."""
    await fill_pool(ann)
    room = await ann.create()
    async with ann.socket(room) as socket:
        await socket.frame()
        answers = await asyncio.gather(*(bob.join(room) for _ in range(10)))
        assert Counter(answer.status_code for answer in answers) == {200: 10}
        assert {answer.json()["members"] for answer in answers} == {2}
        heard = await socket.frame()
        assert (heard["type"], heard["data"]) == ("member_joined", {"member": bob.shown})
        await socket.send("ping")
        assert (await socket.frame())["type"] == "pong"


async def test_leaving_many_times_at_once_is_leaving_once(ann: Person, bob: Person) -> None:
    """One request succeeds, the others come from somebody who is no member."""
    await fill_pool(ann)
    room = await ann.create()
    await bob.join(room)
    answers = await asyncio.gather(*(bob.do("DELETE", f"/{room}/members/me") for _ in range(10)))
    assert Counter(answer.status_code for answer in answers) == {204: 1, 403: 9}
    assert {code(a) for a in answers if a.status_code == 403} == {"rooms.not_a_member"}


async def test_posts_at_once_are_all_kept_and_heard_once(ann: Person, bob: Person) -> None:
    """Thirty posts through both doors: thirty ids, no loss, no duplicate."""
    await fill_pool(ann)
    room = await ann.create()
    await bob.join(room)
    async with ann.socket(room) as hers, bob.socket(room) as his:
        await hers.frame()
        for number in range(15):
            await his.send("post", {"text": f"{number}"}, ref=number)
        answers = await asyncio.gather(*(ann.post(room, f"{number}") for number in range(15, 30)))
        assert {answer.status_code for answer in answers} == {201}
        heard = [(await hers.frame())["data"] for _ in range(30)]
        his_frames = [await his.frame() for _ in range(1 + 15 + 30)]
    assert [f["data"] for f in his_frames if "topic" in f] == heard
    assert [f["ref"] for f in his_frames if "ref" in f] == list(range(15))
    assert len({post["id"] for post in heard}) == 30
    assert {post["text"] for post in heard} == {f"{number}" for number in range(30)}
    items = (await ann.history(room))["items"]
    assert sorted(items, key=lambda p: p["id"]) == sorted(heard, key=lambda p: p["id"])
