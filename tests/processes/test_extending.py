"""The feature of docs/extending.md works: its code is put into a copy of the tree, and used."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.processes.guide import GUIDE, Person, blocks, check, put, run, running
from tests.server import DEADLINE, Socket


def test_the_feature_of_the_guide_works(tree: Path) -> None:
    """Its migration is written, its setting read, its guard kept, its error is at both doors."""
    database = f"sqlite:///{tree}/feature.db"
    put(tree, blocks(first=False))
    check(tree)
    revise = re.search(r'^python -m app (db revision \w+) "(.+)"$', GUIDE, re.MULTILINE)
    assert revise
    run(tree, "app", "db", "upgrade", DATABASE_URL=database)
    written = run(tree, "app", *revise[1].split(), revise[2], DATABASE_URL=database)
    named = re.search(r"`(alembic/versions/.+\.py)`", GUIDE)
    assert named
    assert written.endswith(str(tree / named[1]))
    with running(tree, database) as url:
        ann = Person(url, "1", "Ann")
        for text in ("one", "two", "three"):
            assert ann.ask("POST", "/notes", json={"text": text}).status_code == 201
        assert [note["text"] for note in ann.ask("GET", "/notes").json()] == ["three", "two"]
        again = ann.ask("POST", "/notes", json={"text": "one"})
        assert (again.status_code, again.json()["code"]) == (409, "notes.pinned_already")
        refused = ann.ask("DELETE", "/notes")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        asyncio.run(_at_the_board(ann))
        first, second = ann.ask("GET", "/notes").json()
        assert ann.ask("DELETE", f"/notes/{first['id']}?at=2100-01-01T00:00Z").status_code == 202
        assert ann.ask("DELETE", f"/notes/{second['id']}").status_code == 202
        _until(lambda: ann.ask("GET", "/notes").json()[1] != second)
        assert ann.ask("GET", "/notes").json()[0] == first
    listed = run(tree, "app", "jobs", "list", DATABASE_URL=database)
    assert "notes.unpin  waits 2100-01-01 00:00:00Z" in listed
    run(tree, "app", "db", "check", DATABASE_URL=database)


def _until(what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < deadline


async def _at_the_board(ann: Person) -> None:
    async with ann.socket("/notes/ws") as hers, ann.socket("/notes/ws") as watching:
        socket, other = Socket(hers), Socket(watching)
        assert (await other.frame())["type"] == "welcome"
        refused = await socket.ask("pin", {"text": "one"}, ref="a")
        assert refused["data"]["code"] == "notes.pinned_already"
        pinned = await socket.ask("pin", {"text": "four"}, ref="b")
        heard = await other.frame()
        assert heard == {"type": "pinned", "topic": "notes", "data": pinned["data"]}
