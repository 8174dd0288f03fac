"""Frames that are not valid: each is answered with a registered error, and the socket lives."""

import json
from typing import Any

import pytest

from tests.realtime.probe import TEXT_LIMIT, welcomed
from tests.server import RunningServer

MALFORMED = [
    "",
    " ",
    "hello",
    "{",
    '{"type": "say"',
    "{'type': 'say'}",
    '{"type": "say",}',
    '{"type": "say", "data": NaN}',
    '{"type": "say", "data": Infinity}',
    '{"type": "say", "data": {"text": "\\ud800"}}',
    '{"type": "say", "data": {"text": "\\udc00\\ud800"}}',
    '{"type": "say", "data": {"text": "\\x"}}',
    '{"type": "say", "data": ' + "[" * 60_000,
    '{"type": "say", "data": ' + '{"a":' * 12_000,
    "[" * 32_000 + "]" * 32_000,
    '{"type": "say"}{"type": "say"}',
    '\ufeff{"type": "say"}',
]


@pytest.mark.parametrize("frame", MALFORMED, ids=lambda frame: frame[:24])
async def test_what_is_no_json_is_malformed(probe_server: RunningServer, frame: str) -> None:
    """What cannot be read as JSON is answered as malformed, without a ref."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        await socket.raw(frame)
        answer = await socket.frame()
        assert (answer["type"], answer["data"]["code"]) == ("error", "malformed_body")
        assert answer.keys() == {"type", "data"}
        assert (await socket.ask("ping"))["type"] == "pong"


#: A frame, the error's code, the ref of the answer, and where the fault is.
INVALID: list[tuple[Any, str, object, list[str]]] = [
    ([], "invalid_parameter", None, []),
    (["say"], "invalid_parameter", None, []),
    (None, "invalid_parameter", None, []),
    (True, "invalid_parameter", None, []),
    ("say", "invalid_parameter", None, []),
    (7, "invalid_parameter", None, []),
    ({}, "invalid_parameter", None, ["type"]),
    ({"ref": 1}, "invalid_parameter", 1, ["type"]),
    ({"type": None, "ref": 1}, "invalid_parameter", 1, ["type"]),
    ({"type": 7, "ref": 1}, "invalid_parameter", 1, ["type"]),
    ({"type": ["say"], "ref": 1}, "invalid_parameter", 1, ["type"]),
    ({"type": {}, "ref": 1}, "invalid_parameter", 1, ["type"]),
    ({"type": "", "ref": 1}, "invalid_parameter", 1, ["type"]),
    ({"type": "x" * 65, "ref": 1}, "invalid_parameter", 1, ["type"]),
    ({"type": "say\0", "ref": 1}, "invalid_parameter", 1, []),
    ({"type": "say", "ref": True}, "invalid_parameter", None, ["ref"]),
    ({"type": "say", "ref": 1.0}, "invalid_parameter", None, ["ref"]),
    ({"type": "say", "ref": -1}, "invalid_parameter", None, ["ref"]),
    ({"type": "say", "ref": 2**53}, "invalid_parameter", None, ["ref"]),
    ({"type": "say", "ref": 10**4000}, "invalid_parameter", None, ["ref"]),
    ({"type": "say", "ref": {"a": 1}}, "invalid_parameter", None, ["ref"]),
    ({"type": "say", "ref": [1]}, "invalid_parameter", None, ["ref"]),
    ({"type": "say", "ref": "x" * 65}, "invalid_parameter", None, ["ref"]),
    ({"type": "say", "ref": "a\0"}, "invalid_parameter", "a\0", []),
    ({"type": "say", "ref": 1, "more": 1}, "invalid_parameter", 1, ["more"]),
    ({"type": "say", "ref": 1, "topic": "probe:7"}, "invalid_parameter", 1, ["topic"]),
    ({"type": "unheard", "ref": 1}, "realtime.unknown_type", 1, []),
    ({"type": "Say", "ref": 1}, "realtime.unknown_type", 1, []),
    ({"type": "said", "ref": 1}, "realtime.unknown_type", 1, []),
    ({"type": "welcome", "ref": 1}, "realtime.unknown_type", 1, []),
    ({"type": "error", "ref": 1}, "realtime.unknown_type", 1, []),
    ({"type": "__init__", "ref": 1}, "realtime.unknown_type", 1, []),
    ({"type": "say", "ref": 1}, "invalid_parameter", 1, ["data", "text"]),
    ({"type": "say", "ref": 1, "data": None}, "invalid_parameter", 1, ["data", "text"]),
    ({"type": "say", "ref": 1, "data": []}, "invalid_parameter", 1, ["data"]),
    ({"type": "say", "ref": 1, "data": "text"}, "invalid_parameter", 1, ["data"]),
    ({"type": "say", "ref": 1, "data": 0}, "invalid_parameter", 1, ["data"]),
    ({"type": "say", "ref": 1, "data": {"text": ""}}, "invalid_parameter", 1, ["data", "text"]),
    ({"type": "say", "ref": 1, "data": {"text": 7}}, "invalid_parameter", 1, ["data", "text"]),
    ({"type": "say", "ref": 1, "data": {"text": "\0"}}, "invalid_parameter", 1, []),
    (
        {"type": "say", "ref": 1, "data": {"text": "x", "type": "say"}},
        "invalid_parameter",
        1,
        ["data", "type"],
    ),
    (
        {"type": "say", "ref": 1, "data": {"text": "x" * (TEXT_LIMIT + 1)}},
        "invalid_parameter",
        1,
        ["data", "text"],
    ),
]


@pytest.mark.parametrize(
    ("frame", "code", "ref", "where"), INVALID, ids=[str(case[0])[:40] for case in INVALID]
)
async def test_what_is_no_message_is_refused(
    probe_server: RunningServer, frame: Any, code: str, ref: object, where: list[str]
) -> None:
    """What is JSON and no message of the channel is answered under its ref, with the place."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        await socket.raw(json.dumps(frame))
        answer = await socket.frame()
        assert (answer["type"], answer["data"]["code"]) == ("error", code)
        assert answer.get("ref") == ref
        assert ("ref" in answer) == (ref is not None)
        if code == "invalid_parameter":
            assert answer["data"]["errors"][0]["loc"][: len(where) or 1] == where
        else:
            assert "errors" not in answer["data"]
        assert (await socket.ask("ping"))["type"] == "pong"


async def test_a_refused_frame_is_not_quoted(probe_server: RunningServer) -> None:
    """An answer to a frame that is not valid shows nothing of what was in it."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        await socket.send("say", {"text": ["my-password"]}, ref=1)
        assert "my-password" not in json.dumps(await socket.frame())
        await socket.raw('{"type": "say", "ref": 2, "data": "my-password')
        assert "my-password" not in json.dumps(await socket.frame())


@pytest.mark.parametrize("text", ["ü", "😀", "\u2028", "<b>", "'; DROP TABLE", "\x01", "\u202e"])
async def test_any_other_text_comes_through(probe_server: RunningServer, text: str) -> None:
    """Text of any script comes back as it was sent."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        assert (await socket.ask("say", {"text": text}))["data"]["text"] == text


async def test_a_name_given_twice_counts_once(probe_server: RunningServer) -> None:
    """Of a member that occurs twice the last one counts, as in every JSON reader of Python."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        await socket.raw('{"type": "ping", "type": "say", "ref": 1, "data": {"text": "x"}}')
        assert (await socket.frame())["type"] == "said"
