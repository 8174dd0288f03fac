"""What a person may write in a Channel, and what fails where it is written."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Annotated, Any, cast

import pytest
from fastapi import Depends, Header, Query

from app.core.auth import CurrentUser
from app.realtime import Address, Channel, Message, Topic, on
from tests.realtime.parent import ParentChannel, Thing
from tests.realtime.probe import Fail, Note, OpenChannel, ProbeChannel, Said, Say, Wait


class Documented(Channel):
    """A sentence for the documents."""


class Undocumented(Channel):
    pass


async def number() -> int:
    return 7


Seven = Annotated[int, Depends(number)]


def inspect_fields(channel: type[Channel]) -> Mapping[str, Any]:
    return inspect.signature(channel).parameters


def types_of(channel: type[Channel]) -> set[str]:
    return set(channel.__handlers__)


def test_a_channel_can_be_hashed() -> None:
    """Two channels with equal fields are two: sets and dictionaries tell them apart."""
    one, two = OpenChannel(), OpenChannel()
    assert one != two
    assert len({one, two}) == 2


def test_the_text_of_a_channel_names_no_person() -> None:
    """A channel in a log line shows none of its fields."""

    class Private(Channel):
        user: CurrentUser

    secret = cast(Any, "ann@example.com")
    assert "ann@example.com" not in repr(Private(user=secret))
    assert "ann@example.com" not in str(Private(user=secret))


def test_the_docstring_is_kept() -> None:
    """The documents show what was written, and nothing where nothing was."""
    assert Documented.__doc__ == "A sentence for the documents."
    assert Undocumented.__doc__ is None


class Base(Channel):
    @on
    async def say(self, message: Say) -> Said:
        return Said(text="base")

    @on
    async def note(self, message: Note) -> None: ...


class Mixin:
    @on
    async def wait(self, message: Wait) -> Said:
        return Said(text="mixin")


async def test_handlers_are_collected_over_the_parents() -> None:
    """A channel has the handlers of all its parents, and its own in place of theirs."""

    class Both(Mixin, Base):
        @on
        async def say(self, message: Say) -> Said:
            return Said(text="child")

        @on
        async def fail(self, message: Fail) -> None: ...

    assert types_of(Both) == {"say", "note", "wait", "fail"}
    assert types_of(Base) == {"say", "note"}
    reply = await Both.__handlers__["say"].function(Both(), Say(text="x"))
    assert reply == Said(text="child")


def test_a_method_without_on_takes_a_handler_away() -> None:
    """A child that overrides a handler without `on` does not handle its message."""

    class Quiet(Base):
        async def say(self, message: Say) -> Said:
            return Said(text="not a handler")

    assert types_of(Quiet) == {"note"}


def test_a_child_may_take_another_message_by_the_same_method() -> None:
    """The handler that overrides another decides what it takes."""

    class Other(Base):
        @on
        async def say(self, message: Wait) -> None: ...  # type: ignore[override]

    assert types_of(Other) == {"wait", "note"}


async def test_on_keeps_the_types() -> None:
    """A handler is called like any method, and the type checker knows what it takes and gives."""
    channel = OpenChannel()
    said: Said = await channel.say(Say(text="hi"))
    assert said == Said(text="hi")
    wrong: Awaitable[int] = channel.say(Say(text="hi"))  # type: ignore[assignment]
    await wrong
    with pytest.raises(AttributeError):
        await channel.say("hi")  # type: ignore[arg-type]


def test_the_parents_annotations_are_read_in_its_module() -> None:
    """A parent in another module brings fields and handlers whose types only that module knows."""

    class Child(ParentChannel):
        seven: Seven

    assert types_of(Child) == {"thing"}
    assert list(inspect_fields(Child)) == ["websocket", "things", "seven"]
    assert Child.__handlers__["thing"].model is Thing


def test_a_field_of_its_own_is_no_parameter() -> None:
    """`field(init=False)` is the channel's own: no client reaches it, each instance has one."""

    class Counting(Channel):
        seven: Seven
        seen: list[str] = field(init=False, default_factory=list)

    assert list(inspect_fields(Counting)) == ["websocket", "seven"]
    one, two = Counting(seven=7), Counting(seven=7)
    one.seen.append("x")
    assert two.seen == []


def plain() -> type[Channel]:
    class Plain(Channel):
        count: int = 0

    return Plain


def plain_without_default() -> type[Channel]:
    class Plain(Channel):
        count: int

    return Plain


def depends_as_default() -> type[Channel]:
    class Default(Channel):
        count: int = Depends(number)

    return Default


def annotated_with_text() -> type[Channel]:
    class Text(Channel):
        count: Annotated[int, "how many"] = 0

    return Text


def opened_by_a_child() -> type[Channel]:
    class Parent(Channel):
        count: Seven

    class Child(Parent):
        count: int

    return Child


@pytest.mark.parametrize(
    "definition",
    [plain, plain_without_default, depends_as_default, annotated_with_text, opened_by_a_child],
)
def test_a_field_that_a_client_could_set_fails(definition: Callable[[], type[Channel]]) -> None:
    """A field that is neither injected nor the channel's own fails where it is written."""
    with pytest.raises(TypeError, match=r"\w+\.count: annotate it with Annotated.*any client"):
        definition()


def two_of_a_type() -> type[Channel]:
    class Two(Channel):
        @on
        async def one(self, message: Say) -> None: ...

        @on
        async def two(self, message: Say) -> None: ...

    return Two


def two_of_bytes() -> type[Channel]:
    class Two(Channel):
        @on
        async def one(self, data: bytes) -> None: ...

        @on
        async def two(self, data: bytes) -> None: ...

    return Two


def not_async() -> type[Channel]:
    class Sync(Channel):
        @on  # type: ignore[type-var]
        def say(self, message: Say) -> None: ...

    return Sync


def no_message() -> type[Channel]:
    class NoMessage(Channel):
        @on
        async def say(self) -> None: ...

    return NoMessage


def two_messages() -> type[Channel]:
    class TwoMessages(Channel):
        @on
        async def say(self, message: Say, other: Say) -> None: ...

    return TwoMessages


def more_than_a_key() -> type[Channel]:
    class More(Channel):
        @on
        async def say(self, message: Say, key: str | None, more: int) -> None: ...

    return More


def only_a_key() -> type[Channel]:
    class OnlyKey(Channel):
        @on
        async def say(self, key: str | None) -> None: ...

    return OnlyKey


def no_annotation() -> type[Channel]:
    class NoAnnotation(Channel):
        @on
        async def say(self, message) -> None: ...  # type: ignore[no-untyped-def]

    return NoAnnotation


def not_a_message() -> type[Channel]:
    class NotAMessage(Channel):
        @on
        async def say(self, message: dict[str, Any]) -> None: ...

    return NotAMessage


def a_union() -> type[Channel]:
    class AUnion(Channel):
        @on
        async def say(self, message: Say | Wait) -> None: ...

    return AUnion


def a_message_without_type() -> type[Channel]:
    class Base(Channel):
        @on
        async def say(self, message: Message) -> None: ...

    return Base


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (two_of_a_type, r"Two\.two: 'one' takes 'say' already"),
        (two_of_bytes, r"Two\.two: 'one' takes binary frames already"),
        (not_async, r"Sync\.say: a handler is `async def`"),
        (no_message, r"NoMessage\.say: a handler takes self, one message and perhaps its `key`"),
        (two_messages, r"TwoMessages\.say: a handler takes self, one message and perhaps"),
        (more_than_a_key, r"More\.say: a handler takes self, one message and perhaps its `key`"),
        (only_a_key, r"OnlyKey\.say: annotate 'key' with a Message, or bytes"),
        (no_annotation, r"NoAnnotation\.say: annotate 'message' with a Message, or bytes"),
        (not_a_message, r"NotAMessage\.say: annotate 'message' with a Message, or bytes"),
        (a_union, r"AUnion\.say: annotate 'message' with a Message, or bytes"),
        (a_message_without_type, r"Base\.say: annotate 'message' with a Message, or bytes"),
    ],
)
def test_a_wrong_handler_fails_where_it_is_written(
    definition: Callable[[], type[Channel]], words: str
) -> None:
    """What cannot be a handler fails as its class is made, and says what is wrong with it."""
    with pytest.raises(TypeError, match=words):
        definition()


events = Topic[Said]("lost:{room_id}")


def test_a_placeholder_that_no_guard_takes_fails() -> None:
    """A topic that could not be filled fails as the class is made."""
    with pytest.raises(TypeError, match="no guard of it takes 'room_id' of Topic"):

        class Lost(Channel):
            topic = events
            seven: Seven


def test_a_channel_that_addresses_itself_needs_no_guard() -> None:
    """Whoever overrides `address` fills the topic from whatever it likes."""

    class Found(Channel):
        topic = events
        seven: Seven

        def address(self) -> Address[Said]:
            return events.at(room_id=self.seven)

    assert list(inspect_fields(Found)) == ["websocket", "seven"]
    assert Found(seven=7).address().name == "lost:7"


def test_a_topic_is_filled_from_the_fields_of_a_channel() -> None:
    """A placeholder may be a parameter of the channel itself."""

    class Direct(Channel):
        topic = events
        room_id: Annotated[int, Query()]

    built = Direct(room_id=7, path_values={"room_id": 7})
    assert built.address() == events.at(room_id=7)


def test_a_topic_without_placeholders_needs_nothing() -> None:
    """A channel of one topic for all is not asked for values."""

    class News(Channel):
        topic = Topic[Said]("news")

    address = News().address()
    assert address is not None
    assert address.name == "news"


def test_parameters_may_be_fields() -> None:
    """Whatever FastAPI reads from a handshake may be a field."""

    class Params(Channel):
        q: Annotated[str, Query()] = "none"
        x_thing: Annotated[str | None, Header()] = None

    assert list(inspect_fields(Params)) == ["websocket", "q", "x_thing"]


async def test_a_handler_is_called_without_a_socket() -> None:
    """A test builds a channel by hand, leaves the websocket out and calls the handler."""
    assert await OpenChannel().say(Say(text="hi")) == Said(text="hi")


def test_fields_are_given_by_name() -> None:
    """A field is given by its name, and one that is missing is missed."""
    with pytest.raises(TypeError, match="access"):
        ProbeChannel()  # type: ignore[call-arg]
