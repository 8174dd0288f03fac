"""Somebody may post so often, and it does not matter through which door."""

from app.features.rooms.guards import posting
from tests.features.rooms.people import Person, code
from tests.server import RunningServer

PERMITTED = posting.rate.amount


async def test_posting_has_one_limit_at_both_doors(
    server: RunningServer, ann: Person, bob: Person
) -> None:
    """What is left is one number: the refusal is the same, and neither door goes round it."""
    room = await ann.create()
    await bob.join(room)
    async with ann.socket(room) as socket:
        await socket.until("welcome")
        first = await ann.post(room)
        assert first.headers["RateLimit"].startswith(f'"rooms.post";r={PERMITTED - 1};')
        assert (await socket.ask("post", {"text": "Hello."}))["type"] == "posted"
        for _ in range(PERMITTED - 3):  # of which the last is for below
            await server.app.state.limits.hit(posting, ann.id)
        last = await ann.post(room)
        assert (last.status_code, last.headers["RateLimit"][:17]) == (201, '"rooms.post";r=0;')

        refused = await ann.post(room)
        assert (refused.status_code, code(refused)) == (429, "rate_limited")
        answer = await socket.ask("post", {"text": "Hello."})
        assert answer["data"]["code"] == "rate_limited"
        assert abs(answer["data"]["retry_after"] - refused.json()["retry_after"]) <= 1
        assert (await bob.post(room)).status_code == 201
        assert (await ann.do("GET", f"/{room}/posts")).status_code == 200
    assert len((await ann.history(room))["items"]) == 4
