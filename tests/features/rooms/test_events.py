"""What happens in a room, from a position on: over WebSocket, pulled and streamed; who is there."""

import asyncio
import json
from typing import Any

from tests.features.rooms.people import Person, code
from tests.server import DEADLINE, RunningServer


def after(snapshot: dict[str, Any]) -> str:
    """The query that goes on where a list was true."""
    return f"?epoch={snapshot['epoch']}&after={snapshot['offset']}"


async def test_a_list_and_a_socket_join_without_a_gap(ann: Person, bob: Person) -> None:
    """A page says where it is true: who resumes there hears what came since, and nothing twice."""
    room = await ann.create()
    await ann.post(room, "before")
    await bob.join(room)
    posts = await ann.history(room)
    members = (await ann.do("GET", f"/{room}/members")).json()
    assert {key: posts[key] for key in ("epoch", "offset")} == {
        key: members[key] for key in ("epoch", "offset")
    }
    await ann.post(room, "between")
    async with ann.socket(room, after(posts)) as socket:
        welcome = (await socket.frame())["data"]
        assert (welcome["recovered"], welcome["offset"]) == (True, 2)
        await ann.post(room, "after")
        heard = [await socket.frame() for _ in range(2)]
    assert [frame["data"]["text"] for frame in heard] == ["between", "after"]
    assert [frame["offset"] for frame in heard] == [3, 4]
    known = [*reversed(posts["items"]), *(frame["data"] for frame in heard)]
    assert known == (await ann.history(room))["items"][::-1]


async def test_a_room_in_which_nothing_happened_is_at_its_beginning(ann: Person) -> None:
    """Who goes on from there hears the first event ever."""
    room = await ann.create()
    posts = await ann.history(room)
    assert (posts["items"], posts["epoch"], posts["offset"]) == ([], "", 0)
    async with ann.socket(room, after(posts)) as socket:
        assert (await socket.frame())["data"]["recovered"] is True
        await ann.post(room, "first")
        assert (await socket.frame())["offset"] == 1


async def test_what_is_pulled_and_streamed_is_what_was_heard(ann: Person, bob: Person) -> None:
    """The same events in the same order through every door, whatever they are."""
    room = await ann.create()
    start = after(await ann.history(room))
    async with ann.socket(room) as socket:
        await socket.frame()
        await bob.join(room)
        await bob.post(room, "grüße")
        await bob.do("DELETE", f"/{room}/members/me")
        await ann.do("POST", f"/{room}/archive")
        frames = [await socket.frame() for _ in range(4)]
    heard = [{key: frame[key] for key in ("type", "offset", "data")} for frame in frames]
    assert [each["type"] for each in heard] == [
        "member_joined",
        "posted",
        "member_left",
        "archived",
    ]
    pulled = (await ann.do("GET", f"/{room}/events{start}")).json()
    assert (pulled["events"], pulled["offset"], pulled["recovered"]) == (heard, 4, True)
    streamed = [event for event in await _streamed(ann, room, start, 5) if "type" in event]
    assert streamed == heard


async def _streamed(person: Person, room: int, query: str, number: int) -> list[dict[str, Any]]:
    """The first so many server-sent events, in the form that a pull has them."""
    path = f"/api/v1/rooms/{room}/events/stream{query}"
    headers = {"Authorization": f"Bearer {person.token}"}
    found: list[dict[str, Any]] = []
    fields: dict[str, str] = {}
    async with asyncio.timeout(DEADLINE), person.client.stream("GET", path, headers=headers) as got:
        async for line in got.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
                continue
            data = json.loads(fields["data"])
            if fields["event"] in ("welcome", "problem"):
                found.append({fields["event"]: data})
            else:
                offset = int(fields["id"].partition(":")[2])
                found.append({"type": fields["event"], "offset": offset, "data": data})
            if len(found) == number:
                break
    return found


async def test_only_members_are_told(ann: Person, bob: Person) -> None:
    """One guard, at these doors too."""
    room = await ann.create()
    for path in ("events", "events/stream", "presence"):
        for number, expected in ((room, "rooms.not_a_member"), (room + 1, "rooms.not_found")):
            answer = await bob.do("GET", f"/{number}/{path}")
            assert code(answer) == expected, path


async def test_whoever_leaves_is_told_no_more(
    ann: Person, bob: Person, server: RunningServer
) -> None:
    """What they wait for ends with the error that closes their sockets."""
    room = await ann.create()
    await bob.join(room)
    start = after(await bob.history(room))
    waiting = asyncio.create_task(bob.do("GET", f"/{room}/events{start}&wait=20"))
    streaming = asyncio.create_task(_streamed(bob, room, start, 3))
    hub = server.app.state.hub
    async with asyncio.timeout(DEADLINE):
        while sum(len(feed.subscriptions) for feed in hub._feeds.values()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await ann.do("DELETE", f"/{room}/members/{bob.id}")
    welcome, left, problem = await asyncio.wait_for(streaming, DEADLINE)
    assert welcome["welcome"]["recovered"] is True
    assert (left["type"], left["data"]) == ("member_left", {"member": bob.shown})
    assert problem["problem"]["code"] == "rooms.not_a_member"
    assert "removed" in problem["problem"]["detail"]
    # The long poll was answered with the event; who asks again is refused.
    pulled = (await asyncio.wait_for(waiting, DEADLINE)).json()
    assert [event["type"] for event in pulled["events"]] == ["member_left"]
    assert code(await bob.do("GET", f"/{room}/events{start}")) == "rooms.not_a_member"


async def test_members_see_who_is_there(ann: Person, bob: Person) -> None:
    """Each connection, whose it is and by which name; over REST, on request and as it changes."""
    room = await ann.create()
    await bob.join(room)
    assert (await ann.do("GET", f"/{room}/presence")).json() == []
    async with ann.socket(room) as hers:
        hers.unheard = frozenset()
        mine = (await hers.frame())["data"]["connection"]
        async with bob.socket(room) as his:
            connection = (await his.frame())["data"]["connection"]
            joined: list[dict[str, Any]] = []
            while len(joined) < 2:
                joined += (await hers.until("presence.changed"))["data"]["joined"]
            listed = (await ann.do("GET", f"/{room}/presence")).json()
            assert sorted(listed, key=str) == sorted(joined, key=str)
            assert sorted(listed, key=lambda each: str(each["subject"])) == [
                {"connection": mine, "subject": ann.id, "info": ann.shown},
                {"connection": connection, "subject": bob.id, "info": bob.shown},
            ]
            asked = (await his.ask("presence"))["data"]
            assert (sorted(asked["members"], key=str), asked["count"]) == (
                sorted(listed, key=str),
                2,
            )
        assert (await hers.until("presence.changed"))["data"]["left"] == [connection]
        assert len((await ann.do("GET", f"/{room}/presence")).json()) == 1
