"""Rooms over REST: who may do what, and what each page holds."""

from itertools import cycle
from typing import Any

import httpx2

from tests.features.rooms.people import Person, code

OPERATIONS = [
    ("GET", "/{id}", None),
    ("PUT", "/{id}/members/me", None),
    ("GET", "/{id}/members", None),
    ("GET", "/{id}/posts", None),
    ("POST", "/{id}/posts", {"text": "Hello."}),
    ("POST", "/{id}/archive", None),
    ("DELETE", "/{id}/members/2", None),
    ("DELETE", "/{id}/members/me", None),
]
FOR_MEMBERS = OPERATIONS[2:]
# Each of the first would be that room, if anybody were generous.
NO_IDS = ["0{}", "00{}", "+{}", "-{}", "{}.0", "{}e0", "0x{:x}", "%20{}", "{}%0A", "{}%00",
          "%00", "one", "0", "1_0", "%EF%BC%91", "%D9%A1", str(2**63), str(2**63 + 1),
          "1" * 5000]  # fmt: skip


async def test_a_room_is_its_owners_and_seen_by_everybody(ann: Person, bob: Person) -> None:
    """Whoever creates it is its first member; others see it and are none."""
    created = await ann.do("POST", json={"name": "  Library \U0001f4da "})
    room = created.json()
    assert created.status_code == 201
    assert room.keys() == {"id", "name", "owner", "archived", "member", "members", "created_at"}
    assert (room["name"], room["owner"]) == ("Library \U0001f4da", ann.shown)
    assert (room["archived"], room["member"], room["members"]) == (False, True, 1)
    assert (await ann.do("GET", f"/{room['id']}")).json() == room
    assert (await bob.do("GET", f"/{room['id']}")).json() == room | {"member": False}
    for name in ("", "   ", "a" * 81, "a\0", None):
        answer = await ann.do("POST", json={"name": name})
        assert (answer.status_code, code(answer)) == (422, "invalid_parameter")


async def test_nobody_does_anything_without_a_token(
    ann: Person, client: httpx2.AsyncClient
) -> None:
    """Every operation asks who it is, before it says whether the room is there."""
    room = await ann.create()
    for room_id in (room, room + 1):
        for method, path, body in [*OPERATIONS, ("GET", "", None), ("POST", "", {"name": "A"})]:
            address = "/api/v1/rooms" + path.format(id=room_id)
            answer = await client.request(method, address, json=body)
            assert (answer.status_code, code(answer)) == (401, "authentication_failed"), path


async def test_only_members_are_in_a_room(ann: Person, bob: Person, eve: Person) -> None:
    """Whoever is none, an administrator too, reads nothing, posts nothing, removes nobody."""
    room = await ann.create()
    await ann.post(room, "A secret.")
    for person in (bob, eve):
        for method, path, body in FOR_MEMBERS:
            answer = await person.do(method, path.format(id=room), json=body)
            assert (answer.status_code, code(answer)) == (403, "rooms.not_a_member"), path
            assert "secret" not in answer.text


async def test_a_room_that_is_not_there_is_not_found(ann: Person) -> None:
    """By every operation."""
    room = await ann.create()
    for method, path, body in OPERATIONS:
        for nowhere in (room + 1, 2**63 - 1):
            answer = await ann.do(method, path.format(id=nowhere), json=body)
            assert (answer.status_code, code(answer)) == (404, "rooms.not_found"), path


async def test_what_is_no_id_as_the_service_writes_it_names_no_room(ann: Person) -> None:
    """`007` is not room 7, whatever is done with it."""
    room = await ann.create()
    for no_id, (method, path, body) in zip(NO_IDS, cycle(OPERATIONS), strict=False):
        answer = await ann.do(method, path.format(id=no_id.format(room)), json=body)
        assert (answer.status_code, code(answer)) == (404, "not_found"), no_id
    assert (await ann.do("GET", f"/{room}")).status_code == 200


async def test_joining_and_leaving_change_who_is_in_the_room(ann: Person, bob: Person) -> None:
    """Joining twice is joining once; whoever has left is out, and may come back."""
    room = await ann.create()
    for _ in range(2):
        joined = await bob.join(room)
        assert joined.status_code == 200
        assert (joined.json()["member"], joined.json()["members"]) == (True, 2)
    members = (await bob.do("GET", f"/{room}/members")).json()
    assert (members["items"], members["next"]) == ([ann.shown, bob.shown], None)
    left = await bob.do("DELETE", f"/{room}/members/me")
    assert (left.status_code, left.content) == (204, b"")
    assert code(await bob.do("DELETE", f"/{room}/members/me")) == "rooms.not_a_member"
    assert code(await bob.post(room)) == "rooms.not_a_member"
    assert (await bob.join(room)).json()["members"] == 2


async def test_the_owner_removes_others_and_nobody_else_does(
    ann: Person, bob: Person, eve: Person
) -> None:
    """An administrator who is a member may; a member may not, not even remove themselves so."""
    room = await ann.create()
    await bob.join(room)
    for member in (ann, bob):
        answer = await bob.do("DELETE", f"/{room}/members/{member.id}")
        assert (answer.status_code, code(answer)) == (403, "rooms.not_owner")
    assert (await ann.do("DELETE", f"/{room}/members/{bob.id}")).status_code == 204
    again = await ann.do("DELETE", f"/{room}/members/{bob.id}")
    assert (again.status_code, code(again)) == (404, "rooms.member_not_found")
    await bob.join(room)
    await eve.join(room)
    assert (await eve.do("DELETE", f"/{room}/members/{bob.id}")).status_code == 204
    for nobody in ("2", "%20", "\U0001f600", "a" * 255):
        answer = await ann.do("DELETE", f"/{room}/members/{nobody}")
        assert (answer.status_code, code(answer)) == (404, "rooms.member_not_found"), nobody
    for nonsense in ("%00", "a%00", "a" * 256):
        answer = await ann.do("DELETE", f"/{room}/members/{nonsense}")
        assert (answer.status_code, code(answer)) == (422, "invalid_parameter"), nonsense


async def test_the_owner_stays(ann: Person, eve: Person) -> None:
    """Neither the owner nor an administrator ends the owner's membership."""
    room = await ann.create()
    await eve.join(room)
    for answer in (
        await ann.do("DELETE", f"/{room}/members/me"),
        await ann.do("DELETE", f"/{room}/members/{ann.id}"),
        await eve.do("DELETE", f"/{room}/members/{ann.id}"),
    ):
        assert (answer.status_code, code(answer)) == (409, "rooms.owner_stays")
    assert (await ann.do("GET", f"/{room}")).json()["member"] is True


async def test_an_archived_room_is_read_and_not_written(
    ann: Person, bob: Person, eve: Person
) -> None:
    """Its owner archives it, or an administrator who is a member; it stays so."""
    room, other = await ann.create(), await ann.create()
    await bob.join(room)
    await bob.post(room, "Before.")
    refused = await bob.do("POST", f"/{room}/archive")
    assert (refused.status_code, code(refused)) == (403, "rooms.not_owner")
    for _ in range(2):
        archived = await ann.do("POST", f"/{room}/archive")
        assert (archived.status_code, archived.json()["archived"]) == (200, True)
    for person in (ann, bob):
        answer = await person.post(room, "After.")
        assert (answer.status_code, code(answer)) == (403, "rooms.read_only")
    assert [post["text"] for post in (await bob.history(room))["items"]] == ["Before."]
    await eve.join(other)
    assert (await eve.do("POST", f"/{other}/archive")).json()["archived"] is True


async def test_pages_have_no_gap_and_no_duplicate_while_posts_arrive(
    ann: Person, bob: Person
) -> None:
    """What was there when the first page was read is read, once, the newest first."""
    room, other = await ann.create(), await ann.create()
    posted = []
    for number in range(23):
        posted.append((await ann.post(room, f"{number}")).json())
        await ann.post(other, "Of another room.")
    read: list[dict[str, Any]] = []
    query: dict[str, int] = {"limit": 5}
    while True:
        page = await ann.history(room, **query)
        read += page["items"]
        await ann.post(room, "Meanwhile.")
        if page["next"] is None:
            break
        assert len(page["items"]) == 5
        query["before"] = page["next"]
    assert read == posted[::-1]


async def test_rooms_and_members_come_in_pages(ann: Person, bob: Person, eve: Person) -> None:
    """Rooms the newest first, members the oldest first; the last page says that it is."""
    rooms = [await ann.create(f"{number}") for number in range(5)]
    first = (await bob.do("GET", params={"limit": 3})).json()
    await ann.create("Meanwhile")
    read, page = first["items"], first
    while page["next"] is not None:
        page = (await bob.do("GET", params={"limit": 3, "after": page["next"]})).json()
        read += page["items"]
    assert [room["id"] for room in read][:5] == rooms[::-1]
    await bob.join(rooms[0])
    page = (await ann.do("GET", f"/{rooms[0]}/members", params={"limit": 2})).json()
    assert (page["items"], page["next"]) == ([ann.shown, bob.shown], None)
    await eve.join(rooms[0])
    page = (await ann.do("GET", f"/{rooms[0]}/members", params={"limit": 2})).json()
    query = {"limit": 2, "after": page["next"]}
    page = (await ann.do("GET", f"/{rooms[0]}/members", params=query)).json()
    assert (page["items"], page["next"]) == ([eve.shown], None)


async def test_a_page_that_cannot_be_is_an_invalid_parameter(ann: Person) -> None:
    """Limits go from 1 to 100, cursors from 1 to what a database holds."""
    room = await ann.create()
    for path, cursor in (
        ("", "after"),
        (f"/{room}/members", "after"),
        (f"/{room}/posts", "before"),
    ):
        for name, values in (("limit", [0, 101, -1, "x", 2**70]), (cursor, [0, -1, 2**63, "1e0"])):
            for value in values:
                answer = await ann.do("GET", path, params={name: str(value)})
                assert (answer.status_code, code(answer)) == (422, "invalid_parameter")
                assert answer.json()["errors"][0]["loc"] == ["query", name]
        assert (await ann.do("GET", path, params={cursor: str(2**63 - 1)})).status_code == 200
