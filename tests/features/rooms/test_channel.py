"""A room as it happens: the same room, the same people, the same errors as over REST."""

import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import event, exc
from websockets.exceptions import InvalidStatus

from app.features.rooms.errors import RoomNotFound
from app.features.rooms.guards import room_access
from tests.features.rooms.people import Person, code
from tests.features.rooms.test_rooms import NO_IDS
from tests.server import RunningServer, Socket

TEXTS = ["Hello.", "\U0001f469\u200d\U0001f680 \U0001f600", "שלום \u202e", "e\u0301", "<b>&\n\t",
         "a" * 2000, "\U0001f600" * 2000, "'; DROP TABLE rooms; --", " "]  # fmt: skip


async def welcomed(stack: AsyncExitStack, person: Person, room: int) -> Socket:
    """A socket of somebody's that has been welcomed into the room."""
    socket = await stack.enter_async_context(person.socket(room))
    assert (await socket.frame())["type"] == "welcome"
    return socket


async def alive(socket: Socket) -> bool:
    """Whether the socket answers, with nothing before the answer."""
    await socket.send("ping", ref="alive")
    return await socket.frame() == {"type": "pong", "ref": "alive"}


async def denied(person: Person, room: int | str) -> dict[str, Any]:
    """The problem that a program's handshake is denied with."""
    with pytest.raises(InvalidStatus) as refused:
        async with person.socket(room):
            pass
    response = refused.value.response
    problem: dict[str, Any] = json.loads(response.body or b"")
    assert response.status_code == problem["status"]
    return problem


async def closed(person: Person, room: int | str) -> tuple[int, str, dict[str, Any]]:
    """How a page's socket ends, and the problem in the one frame before."""
    async with person.browser_socket(room) as socket:
        close_code, reason, (frame,) = await socket.ending()
    assert frame["type"] == "error"
    return close_code, reason, frame["data"]


async def test_members_hear_what_is_posted_at_either_door(ann: Person, bob: Person) -> None:
    """A post over REST is heard on sockets; one from a socket is heard, answered, and kept."""
    room = await ann.create()
    await bob.join(room)
    async with AsyncExitStack() as stack:
        hers, his = [await welcomed(stack, person, room) for person in (ann, bob)]
        over_rest = (await ann.post(room, "From REST.")).json()
        told = {"type": "posted", "topic": f"rooms:{room}", "offset": 2, "data": over_rest}
        for socket in (hers, his):
            assert await socket.frame() == told  # the first event of the room was that Bob joined
        reply = await his.ask("post", {"text": "From a socket."}, ref=7)
        assert (reply["type"], reply["ref"], reply["offset"]) == ("posted", 7, 3)
        assert "topic" not in reply
        assert await hers.frame() == told | {"offset": 3, "data": reply["data"]}
        assert reply["data"]["author"] == bob.shown
        assert (await ann.history(room))["items"] == [reply["data"], over_rest]


async def test_whoever_posts_hears_it_too(ann: Person) -> None:
    """The sender gets the broadcast beside the reply."""
    room = await ann.create()
    async with ann.socket(room) as socket:
        await socket.frame()
        await socket.send("post", {"text": "Hello."}, ref="a")
        frames = [await socket.frame(), await socket.frame()]
    replies = [frame for frame in frames if frame.get("ref") == "a"]
    broadcasts = [frame for frame in frames if frame.get("topic") == f"rooms:{room}"]
    assert len(replies) == len(broadcasts) == 1
    assert replies[0]["data"] == broadcasts[0]["data"]


async def test_history_is_what_was_heard(ann: Person, bob: Person) -> None:
    """Whatever the script, through whichever door: live and later it is the same text."""
    room = await ann.create()
    await bob.join(room)
    async with ann.socket(room) as hers, bob.socket(room) as his:
        await hers.frame()
        for index, text in enumerate(TEXTS):
            if index % 2:
                assert (await ann.post(room, text)).status_code == 201
            else:
                assert (await his.ask("post", {"text": text}))["type"] == "posted"
        heard = [(await hers.until("posted"))["data"] for _ in TEXTS]
    assert [post["text"] for post in heard] == TEXTS
    assert (await ann.history(room))["items"] == heard[::-1]


async def test_text_that_cannot_be_posted_is_refused_alike_at_both_doors(ann: Person) -> None:
    """Nothing of it is kept or told, and the socket lives."""
    room = await ann.create()
    bodies = [b'{"text": ""}', b'{"text": "a\\u0000b"}', b'{"text": null}', b"{}", b"[]", b'""',
              b'{"text": "%s"}' % (b"a" * 2001), b'{"text": "a", "author": "Bob"}']  # fmt: skip
    async with ann.socket(room) as socket:
        await socket.frame()
        for body in bodies:
            headers = {"Content-Type": "application/json"}
            over_rest = await ann.do("POST", f"/{room}/posts", content=body, headers=headers)
            await socket.raw(b'{"type":"post","ref":1,"data":%s}'.decode() % body.decode())
            answer = await socket.frame()
            assert (answer["type"], answer["ref"]) == ("error", 1)
            assert over_rest.json()["code"] == answer["data"]["code"] == "invalid_parameter"
            wrong = [
                [error["loc"][1:] for error in problem["errors"]]
                for problem in (over_rest.json(), answer["data"])
            ]
            assert wrong[0] == wrong[1]
            assert await alive(socket)
        assert (await ann.history(room))["items"] == []


async def test_a_lone_surrogate_is_refused_at_both_doors(ann: Person) -> None:
    """UTF-8 cannot hold it, so no text can."""
    room = await ann.create()
    async with ann.socket(room) as socket:
        await socket.frame()
        body = b'{"text": "a\\ud800b"}'
        headers = {"Content-Type": "application/json"}
        over_rest = await ann.do("POST", f"/{room}/posts", content=body, headers=headers)
        assert over_rest.status_code in (400, 422)
        await socket.raw('{"type":"post","ref":1,"data":{"text":"a\\ud800b"}}')
        answer = await socket.frame()
        assert answer["type"] == "error"
        assert answer["data"]["status"] in (400, 422)
        assert await alive(socket)


async def test_only_members_are_let_in_by_the_guard_of_rest(
    ann: Person, bob: Person, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dependency decides at both doors: replaced, both decide as it does then."""
    room = await ann.create()

    async def check(expected: str, status: int) -> None:
        over_rest = await bob.do("GET", f"/{room}/posts")
        problem = await denied(bob, room)
        close_code, reason, framed = await closed(bob, room)
        assert (over_rest.status_code, close_code) == (status, 4000 + status)
        assert code(over_rest) == problem["code"] == framed["code"] == reason == expected

    await check("rooms.not_a_member", 403)

    async def nobody() -> None:
        raise RoomNotFound

    monkeypatch.setitem(server.app.dependency_overrides, room_access, nobody)
    await check("rooms.not_found", 404)


async def test_what_names_no_room_opens_no_socket(ann: Person) -> None:
    """A program and a page are denied before accept: there is nothing at such an address."""
    room = await ann.create()
    for no_id in NO_IDS:
        assert (await denied(ann, no_id.format(room)))["code"] == "not_found", no_id
    with pytest.raises(InvalidStatus, match="404"):
        async with ann.browser_socket(f"0{room}"):
            pass
    assert (await denied(ann, room + 1))["code"] == "rooms.not_found"
    assert (await closed(ann, room + 1))[:2] == (4404, "rooms.not_found")


@pytest.mark.parametrize("removed", [False, True], ids=["leaves", "is removed"])
async def test_whoever_is_no_member_any_more_is_closed_at_once(
    ann: Person, bob: Person, *, removed: bool
) -> None:
    """On each of their sockets to this room, and nobody else's; the others hear of it."""
    room, other = await ann.create(), await bob.create()
    await bob.join(room)
    async with AsyncExitStack() as stack:
        hers = await welcomed(stack, ann, room)
        his = [await welcomed(stack, bob, room) for _ in range(2)]
        elsewhere = await welcomed(stack, bob, other)
        if removed:
            answer = await ann.do("DELETE", f"/{room}/members/{bob.id}")
        else:
            answer = await bob.do("DELETE", f"/{room}/members/me")
        assert answer.status_code == 204
        for socket in his:
            close_code, reason, frames = await socket.ending()
            assert (close_code, reason) == (4403, "rooms.not_a_member")
            assert frames[-1]["type"] == "error"
            assert frames[-1]["data"]["code"] == "rooms.not_a_member"
            assert ("removed" in frames[-1]["data"]["detail"]) is removed
        heard = await hers.frame()
        assert (heard["type"], heard["data"]) == ("member_left", {"member": bob.shown})
        assert await alive(hers)
        assert await alive(elsewhere)
        assert (await denied(bob, room))["code"] == "rooms.not_a_member"


async def test_archiving_acts_on_whoever_is_connected(ann: Person, bob: Person) -> None:
    """They hear it; their next post is refused with the error of REST, and the socket lives."""
    room = await ann.create()
    await bob.join(room)
    async with bob.socket(room) as socket:
        await socket.frame()
        await ann.do("POST", f"/{room}/archive")
        await ann.do("POST", f"/{room}/archive")
        heard = await socket.frame()
        told = {"type": "archived", "topic": f"rooms:{room}", "data": {"by": ann.shown}}
        assert heard == told | {"offset": 2}
        await socket.send("post", {"text": "Too late."}, ref="late")
        refused = await socket.frame()
        assert (refused["type"], refused["ref"]) == ("error", "late")
        assert (refused["data"]["code"], refused["data"]["error_code"]) == ("rooms.read_only", 2103)
        over_rest = (await bob.post(room)).json()
        own = {"instance", "request_id"}
        assert {k: v for k, v in over_rest.items() if k not in own} == {
            k: v for k, v in refused["data"].items() if k not in own
        }
        assert await alive(socket)


async def test_a_post_that_is_not_committed_is_told_to_nobody(
    ann: Person, server: RunningServer
) -> None:
    """The failed one is a 503, is in no history, and the next is the first that is heard."""
    room = await ann.create()

    def fail(_: Any) -> None:
        raise exc.OperationalError("COMMIT", {}, ConnectionError("the database is gone"))

    engine = server.app.state.database.engine.sync_engine
    async with ann.socket(room) as socket, ann.socket(room) as listening:
        await listening.frame()
        event.listen(engine, "commit", fail)
        over_rest = await ann.post(room, "Lost.")
        on_socket = await socket.ask("post", {"text": "Lost."})
        event.remove(engine, "commit", fail)
        assert (over_rest.status_code, code(over_rest)) == (503, "unavailable")
        assert on_socket["data"]["code"] == "unavailable"
        kept = (await ann.post(room, "Kept.")).json()
        assert (await listening.frame())["data"] == kept
        assert (await ann.history(room))["items"] == [kept]


async def test_an_idle_socket_holds_no_database_connection(
    ann: Person, server: RunningServer
) -> None:
    """Twenty are open, more than the pool has connections, and none of those is in use."""
    room = await ann.create()
    pool = server.app.state.database.engine.pool
    async with AsyncExitStack() as stack:
        sockets = [await welcomed(stack, ann, room) for _ in range(20)]
        assert len(sockets) > server.settings.database_pool_size
        assert pool.checkedout() < 3
        await ann.post(room)
        for socket in sockets:
            assert (await socket.frame())["type"] == "posted"
        assert pool.checkedout() < 3
