"""Messages, and the envelope that carries them."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.realtime.messages import (
    RESERVED_TYPES,
    Encoded,
    InvalidFrame,
    Message,
    decode,
    encode,
    ref_of,
)
from tests.realtime.probe import Note, Said


@pytest.mark.parametrize("name", sorted(RESERVED_TYPES))
def test_the_engines_types_are_reserved(name: str) -> None:
    """A message of a type that the engine itself sends or takes fails at its definition."""
    with pytest.raises(TypeError, match="engine's own"):
        type("Mine", (Message,), {"type": name})


def test_a_message_needs_a_type() -> None:
    """A message without a type fails at its definition, and says what is missing."""
    with pytest.raises(TypeError, match=r"Mine: a message needs a type"):
        type("Mine", (Message,), {})


@pytest.mark.parametrize("name", ["", "Post", "post-it", "1st", "a.", ".a", "a..b", "ü", 7, None])
def test_a_type_is_lower_case_words(name: object) -> None:
    """A type that is not lower-case words with dots between fails at its definition."""
    with pytest.raises(TypeError, match="needs a type"):
        type("Mine", (Message,), {"type": name})


def test_a_message_inherits_its_parents_type() -> None:
    """A message may extend another and keep its type."""

    class Louder(Said):
        loud: bool = True

    assert Louder.type == "said"


def test_the_type_is_no_member() -> None:
    """The type stands in the envelope: the data neither shows nor takes it."""
    assert Said(text="hi").model_dump() == {"text": "hi", "by": ""}
    with pytest.raises(ValidationError):
        Said.model_validate({"text": "hi", "type": "said"})


def test_a_message_is_frozen() -> None:
    """A message does not change, so that one object may go to many."""
    with pytest.raises(ValidationError):
        Said(text="hi").text = "ho"  # type: ignore[misc]


def test_members_that_are_none_are_left_out() -> None:
    """A frame has only the members it needs, and an empty ref is not one of them."""
    assert json.loads(encode("ack").payload) == {"type": "ack"}
    assert json.loads(encode("ack", ref=None).payload) == {"type": "ack"}
    assert json.loads(encode("ack", ref=0).payload) == {"type": "ack", "ref": 0}
    assert json.loads(encode("ack", ref="").payload) == {"type": "ack", "ref": ""}


def test_the_size_is_in_bytes() -> None:
    """What counts against an outbox is what goes over the wire."""
    frame = encode("said", Said(text="grüße"))
    assert isinstance(frame.payload, str)
    assert frame.size == len(frame.payload.encode()) == len(frame.payload) + 2
    assert Encoded.of("ü").size == 2
    assert Encoded.of(b"\x00\x01\x02").size == 3


def test_an_envelope_is_decoded() -> None:
    """Type, ref and data come out as they were sent."""
    envelope = decode('{"type": "say", "ref": "1", "data": {"text": [1, 2.5, null]}}')
    assert (envelope.type, envelope.ref) == ("say", "1")
    assert envelope.data == {"text": [1, 2.5, None]}
    assert decode('{"type": "say"}').data is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{", "nul", "{'type': 'a'}", '{"type": "a"} x', '{"type": "a",}'),
        *('{"type": "a", "data": NaN}', '{"type": "a", "data": -Infinity}', "NaN"),
        *('{"type": "\\ud800"}', '"\\udfff"', "[" * 60_000, '{"type":' * 8_000),
        *('\ufeff{"type": "a"}', '{"type": "a\n"}'),
    ],
)
def test_what_is_no_json_is_malformed(text: str) -> None:
    """Anything but JSON is malformed, however deep and however nearly right."""
    with pytest.raises(InvalidFrame) as refused:
        decode(text)
    assert refused.value.error.code == "malformed_body"
    assert refused.value.ref is None


@pytest.mark.parametrize(
    ("frame", "where"),
    [
        ([], []),
        (None, []),
        ("text", []),
        (7, []),
        ({}, ["type"]),
        ({"type": ""}, ["type"]),
        ({"type": None}, ["type"]),
        ({"type": 7}, ["type"]),
        ({"type": ["a"]}, ["type"]),
        ({"type": "x" * 65}, ["type"]),
        ({"type": "a\0b"}, []),
        ({"type": "a", "ref": True}, ["ref"]),
        ({"type": "a", "ref": 1.5}, ["ref"]),
        ({"type": "a", "ref": -1}, ["ref"]),
        ({"type": "a", "ref": 2**53}, ["ref"]),
        ({"type": "a", "ref": 10**400}, ["ref"]),
        ({"type": "a", "ref": {}}, ["ref"]),
        ({"type": "a", "ref": "x" * 65}, ["ref"]),
        ({"type": "a", "more": 1}, ["more"]),
    ],
)
def test_what_is_no_envelope_is_invalid(frame: Any, where: list[str]) -> None:
    """JSON that is no envelope is invalid, with the place, and without the input."""
    with pytest.raises(InvalidFrame) as refused:
        decode(json.dumps(frame))
    error = refused.value.error
    assert error.code == "invalid_parameter"
    assert error.errors[0]["loc"][:1] == where
    assert "input" not in error.errors[0]


@pytest.mark.parametrize("ref", ["", "a", "x" * 64, 0, 1, 2**53 - 1])
def test_an_invalid_frame_keeps_a_good_ref(ref: str | int) -> None:
    """What is wrong with a frame is answered under its ref, where that is one."""
    with pytest.raises(InvalidFrame) as refused:
        decode(json.dumps({"ref": ref}))
    assert refused.value.ref == ref


@pytest.mark.parametrize("ref", [None, True, 1.0, -1, 2**53, "x" * 65, [], {}])
def test_what_is_no_ref_is_not_repeated(ref: object) -> None:
    """A ref that is not one is not sent back."""
    assert ref_of({"ref": ref}) is None
    assert ref_of([ref]) is None


def test_many_faults_are_not_all_listed() -> None:
    """A frame with a thousand faults is answered with twenty."""
    with pytest.raises(InvalidFrame) as refused:
        decode(json.dumps({"type": "a"} | {f"m{i}": i for i in range(1000)}))
    assert len(refused.value.error.errors) == 20


def test_a_note_is_empty_by_default() -> None:
    """A message whose members all have defaults is made from nothing."""
    assert Note.model_validate({}) == Note()
