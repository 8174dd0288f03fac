"""Where a client says that it has come to: in the query, and in Last-Event-ID."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter

from app.core.schemas import MAX_ID
from app.realtime import Position, Since, SinceEvent
from app.realtime.since import event_id
from tests.server import RunningServer

EPOCH = "0123456789abcdef" * 2

router = APIRouter(prefix="/since")


@router.get("/query")
async def query(since: Since) -> list[Any] | None:
    """What the query says."""
    return [since.epoch, since.offset] if since else None


@router.get("/event")
async def event(since: SinceEvent) -> list[Any] | None:
    """What the header or the query says."""
    return [since.epoch, since.offset] if since else None


@pytest.fixture(scope="module")
def since_server(serve_module: Callable[..., RunningServer]) -> RunningServer:
    """A server that tells what it understood."""
    return serve_module(router)


@pytest.mark.parametrize("path", ["/since/query", "/since/event"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", None),
        (f"?epoch={EPOCH}", None),  # an epoch alone is no place in it
        (f"?epoch={EPOCH}&after=7", [EPOCH, 7]),
        ("?epoch=&after=0", ["", 0]),
        ("?after=0", ["", 0]),
        (f"?epoch={EPOCH}&after={MAX_ID}", [EPOCH, MAX_ID]),
        ("?epoch=%00%F0%9F%98%80'--&after=7", ["\0\U0001f600'--", 7]),
    ],
)
async def test_the_query_says_where(
    since_server: RunningServer, path: str, query: str, expected: list[Any] | None
) -> None:
    """`after` is the last offset that was seen, `epoch` whose it is; without it one begins."""
    async with since_server.client() as http:
        answer = await http.get(path + query)
    assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("after=-1", "after"),
        (f"after={MAX_ID + 1}", "after"),
        ("after=1.5", "after"),
        ("after=1e3", "after"),
        ("after=", "after"),
        ("after=x", "after"),
        ("after=" + "9" * 5000, "after"),
        (f"epoch={'0' * 33}&after=1", "epoch"),
    ],
)
async def test_what_is_no_place_is_an_invalid_parameter(
    since_server: RunningServer, query: str, name: str
) -> None:
    """It names the parameter, and never quotes it."""
    async with since_server.client() as http:
        answer = await http.get(f"/since/query?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert [error["loc"] for error in answer.json()["errors"]] == [["query", name]]
    assert "0" * 33 not in answer.text


async def test_the_event_id_goes_before_the_query(since_server: RunningServer) -> None:
    """A reconnecting EventSource repeats the address that it began with."""
    async with since_server.client() as http:
        for sent, expected in (
            (f"{EPOCH}:7", [EPOCH, 7]),
            (":0", ["", 0]),
            (f"{EPOCH}:{MAX_ID}", [EPOCH, MAX_ID]),
            ("", [EPOCH, 1]),
        ):
            answer = await http.get(
                f"/since/event?epoch={EPOCH}&after=1", headers={"Last-Event-ID": sent}
            )
            assert (answer.status_code, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    "sent",
    ["7", ":", f"{EPOCH}:", f"{EPOCH}:-1", f"{EPOCH}:01", f"{EPOCH}:+1", f"{EPOCH}:1 2",
     f"{EPOCH}:{MAX_ID + 1}", f"{EPOCH}:" + "9" * 5000, f"{EPOCH}0:1", f"{EPOCH.upper()}:1",
     f"{EPOCH}:\N{SUPERSCRIPT TWO}", f"x{EPOCH[1:]}:1", f"{EPOCH}:1:1", "welcome"],
)  # fmt: skip
async def test_what_is_no_event_id_is_an_invalid_parameter(
    since_server: RunningServer, sent: str
) -> None:
    """Nobody is sent from a place that they did not mean."""
    async with since_server.client() as http:
        headers = {"Last-Event-ID": sent.encode("latin-1")}
        answer = await http.get("/since/event", headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert "Last-Event-ID" in answer.json()["detail"]


def test_an_event_id_is_read_as_it_was_written() -> None:
    """Epoch and offset, and nothing that a header could not hold."""
    assert event_id(Position(EPOCH, 7)) == f"{EPOCH}:7"
    assert event_id(Position("", 0)) == ":0"
