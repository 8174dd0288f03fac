"""Topics and their names."""

import pytest

from app.core.errors import NotFound
from app.realtime.messages import Message
from app.realtime.topics import Topic
from tests.realtime.probe import Noise, Said

rooms = Topic[Said]("rooms:{room_id}")
chats = Topic[Said | Noise]("chats:{a}:{b}")


def test_a_name_is_filled_from_values() -> None:
    """A placeholder is filled with the value as text."""
    assert rooms.at(room_id=7).name == "rooms:7"
    assert chats.at(a="x", b="y").name == "chats:x:y"
    assert rooms.at(room_id=7, other="ignored") == rooms.at(room_id=7)


@pytest.mark.parametrize("value", ["", "a:b", "a/b", ":", "/", "7:", "../7"])
def test_a_value_that_could_be_two_things_is_not_found(value: str) -> None:
    """A value that is empty or holds a separator names nothing, so no two names collide."""
    with pytest.raises(NotFound):
        rooms.at(room_id=value)
    with pytest.raises(NotFound):
        chats.at(a="x", b=value)


def test_values_that_look_like_placeholders_stay_values() -> None:
    """A value is never taken for a placeholder."""
    assert chats.at(a="{b}", b="y").name == "chats:{b}:y"


@pytest.mark.parametrize(
    "values", [{"a": "x", "b": "y"}, {"a": "ü", "b": " "}, {"a": "{b}", "b": "."}]
)
def test_a_name_gives_its_values_back(values: dict[str, str]) -> None:
    """What a name was filled from can be read from it."""
    assert chats.parse(chats.at(**values).name) == values


@pytest.mark.parametrize(
    "name", ["", "rooms", "rooms:", "rooms:7:8", "rooms:a/b", "xrooms:7", "rooms:7\n/"]
)
def test_a_foreign_name_is_no_name_of_the_topic(name: str) -> None:
    """A name that the topic never renders is not read."""
    assert rooms.parse(name) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a/b",
        "a:{",
        "a:}",
        "a:{A}",
        "a:{}",
        "a:{1}",
        "{a}/{b}",
        "a:{b}{c}",
        "a:{b}-{c}",
        "{a}:{a}",
    ],
)
def test_what_is_no_pattern_fails_at_once(pattern: str) -> None:
    """A pattern that cannot be filled fails where it is written."""
    with pytest.raises(ValueError, match="is not a topic"):
        Topic[Said](pattern)


def test_a_dot_in_a_pattern_is_a_dot() -> None:
    """The literal part of a pattern is taken literally."""
    topic = Topic[Said]("a.b:{id}")
    assert topic.parse("a.b:7") == {"id": "7"}
    assert topic.parse("axb:7") is None


def test_a_topic_knows_its_events() -> None:
    """The subscript says which events there are; without one any message is."""
    assert rooms.events == (Said,)
    assert chats.events == (Said, Noise)
    assert Topic("any:{id}").events == (Message,)


def test_a_topic_shows_its_pattern() -> None:
    """A topic in a log line is its pattern."""
    assert repr(rooms) == "Topic('rooms:{room_id}')"
