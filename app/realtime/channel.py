"""`Channel`: a WebSocket endpoint whose fields are dependencies and whose `on` methods are routes.

@router.websocket("/ws")
class RoomChannel(Channel):
    topic = room_events
    room: Member

    @on
    async def post(self, draft: PostDraft) -> Posted: ...
"""

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import (
    Annotated,
    Any,
    ClassVar,
    TypeVar,
    dataclass_transform,
    get_args,
    get_type_hints,
    overload,
)

from fastapi import Depends, params
from fastapi.dependencies.utils import solve_dependencies
from fastapi.exceptions import WebSocketRequestValidationError
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from app.core.errors import NotFound, RateLimited, declared, raises
from app.core.limits import Limit
from app.core.schemas import Schema
from app.realtime.connection import Connection
from app.realtime.messages import Message, Position
from app.realtime.outbox import Overflow
from app.realtime.since import Since
from app.realtime.topics import Address, Topic

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])

BINARY = ""  # the key of the handler for binary frames, which name no type


@overload
def on(handler: H) -> H: ...
@overload
def on(*, limit: Limit) -> Callable[[H], H]: ...
def on(handler: H | None = None, *, limit: Limit | None = None) -> H | Callable[[H], H]:
    """Mark a method as the handler of the message that its first parameter is annotated with.

    A parameter annotated `bytes` takes binary frames. A second one, called `key`, is the key that
    the client may give a message so that it is done once. What it returns is the reply.

    With `@on(limit=…)` each such message is counted, and one too many answered with RateLimited.
    """

    def mark(handler: H) -> H:
        handler.__on__ = True  # type: ignore[attr-defined]
        handler.__limit__ = limit  # type: ignore[attr-defined]
        return raises(RateLimited)(handler) if limit else handler

    return mark if handler is None else mark(handler)


@dataclass(frozen=True, slots=True)
class Handler:
    """A method marked with `on`, and the model of what it takes (None: bytes)."""

    function: Callable[..., Awaitable[Any]]
    model: type[Message] | None
    takes_key: bool = False
    limit: Limit | None = None


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field,))
@dataclass(eq=False, repr=False, kw_only=True)
class Channel:
    """A WebSocket endpoint. FastAPI injects each field, and awaits the instance.

    A field is `Annotated[…, Depends(…)]` or another of FastAPI's parameters, or the channel's own
    with `field(init=False)`. `websocket` may be left out where a test builds a channel by hand.
    """

    #: What the channel's clients hear; its placeholders are filled from the validated path.
    topic: ClassVar[Topic[Any] | None] = None
    #: Subprotocols it speaks; the first of the client's that is among them is chosen.
    subprotocols: ClassVar[tuple[str, ...]] = ()
    #: What happens to a client that reads more slowly than it is sent to.
    overflow: ClassVar[Overflow] = Overflow.EVICT
    #: How often a client may connect; handshakes that its guards refuse are not counted.
    handshakes: ClassVar[Limit | None] = None

    __handlers__: ClassVar[Mapping[str, Handler]] = {}

    websocket: WebSocket = None  # type: ignore[assignment]
    path_values: Mapping[str, Any] = field(default_factory=dict)
    since: Position | None = None  # where the client resumes, of a durable topic

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        documentation = cls.__doc__
        dataclass(eq=False, repr=False, kw_only=True)(cls)
        cls.__doc__ = documentation  # dataclass writes one, which would reach the documents
        if cls.topic and cls.topic.durable and cls.overflow is not Overflow.EVICT:
            raise TypeError(f"{cls.__name__}: {cls.topic} is durable, and loses nothing silently")
        cls.__handlers__ = _handlers(cls)
        cls.__signature__ = _signature(cls)  # type: ignore[attr-defined]
        raises(*declared(cls.address), *declared(cls.authorise), *declared(cls.opened))(cls)
        if cls.handshakes is not None:
            raises(RateLimited)(cls)

    def address(self) -> Address[Any] | None:
        """The topic of this connection, or None. Override it to fill it from something else."""
        return self.topic.at(**self.path_values) if self.topic else None

    async def authorise(self) -> None:
        """Check anew that the client may be here, on current state; raises an AppError if not.

        By default every dependency is resolved again and the fields take the new values. It runs
        right after subscribing, after each `auth.refresh`, and every WS_AUTHORISE_SECONDS.
        """
        websocket = self.websocket
        solved = await solve_dependencies(
            request=websocket,
            dependant=websocket.scope["route"].dependant,
            dependency_overrides_provider=websocket.app,
            async_exit_stack=websocket.scope["fastapi_inner_astack"],
            embed_body_fields=False,
        )
        if solved.errors:
            raise WebSocketRequestValidationError(solved.errors)
        for name, value in solved.values.items():
            setattr(self, name, value)

    def presence(self) -> Schema | None:
        """What the others in the topic may know of this client; None, and it is not seen there."""
        return None

    async def opened(self) -> None:
        """Called once the client is connected, before its first frame."""

    async def closed(self, code: int) -> None:
        """Called once the connection has ended, with its close code."""

    def __await__(self) -> Generator[Any, None, None]:
        return Connection(self).run().__await__()


def _handlers(cls: type[Channel]) -> dict[str, Handler]:
    found: dict[str, Handler] = {}
    for name in dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base)):
        function = inspect.getattr_static(cls, name)
        if not getattr(function, "__on__", False):
            continue
        where = f"{cls.__name__}.{name}"
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{where}: a handler is `async def`")
        parameters = list(inspect.signature(function).parameters)
        if len(parameters) != 2 and parameters[2:] != ["key"]:
            raise TypeError(f"{where}: a handler takes self, one message and perhaps its `key`")
        model = get_type_hints(function).get(parameters[1])
        if model is bytes:
            model, key = None, BINARY
        elif isinstance(model, type) and issubclass(model, Message) and model is not Message:
            key = model.type
        else:
            raise TypeError(f"{where}: annotate {parameters[1]!r} with a Message, or bytes")
        if key in found:
            taken = repr(key) if model else "binary frames"
            raise TypeError(f"{where}: {found[key].function.__name__!r} takes {taken} already")
        found[key] = Handler(function, model, len(parameters) > 2, function.__limit__)
    return found


def _signature(cls: type[Channel]) -> inspect.Signature:
    hints = get_type_hints(cls, include_extras=True)
    parameters = {"websocket": hints["websocket"]}
    defaults = {}
    for each in fields(cls):
        if each.name in ("websocket", "path_values", "since") or not each.init:
            continue
        if not _is_injected(hints[each.name]):
            raise TypeError(
                f"{cls.__name__}.{each.name}: annotate it with Annotated[…, Depends(…)], or make "
                "it the channel's own with field(init=False); otherwise any client could set it"
            )
        parameters[each.name] = hints[each.name]
        if each.default is not MISSING:
            defaults[each.name] = each.default
    if cls.topic is not None and cls.address is Channel.address:
        values = _path_values(cls, cls.topic, parameters)
        parameters["path_values"] = Annotated[Mapping[str, Any], Depends(values)]
    if cls.topic is not None and cls.topic.durable:
        parameters["since"] = Since
    return _keywords(parameters, defaults)


def _keywords(annotations: Mapping[str, Any], defaults: Mapping[str, Any]) -> inspect.Signature:
    kind, required = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, kind, default=defaults.get(name, required), annotation=each)
            for name, each in annotations.items()
        ]
    )


def _is_injected(annotation: Any) -> bool:
    return _dependency(annotation) is not None or any(
        isinstance(extra, params.Param) for extra in getattr(annotation, "__metadata__", ())
    )


def _dependency(annotation: Any) -> params.Depends | None:
    extras = getattr(annotation, "__metadata__", ())
    return next((extra for extra in extras if isinstance(extra, params.Depends)), None)


def _path_values(
    cls: type[Channel], topic: Topic[Any], parameters: Mapping[str, Any]
) -> Callable[..., Awaitable[dict[str, Any]]]:
    """A dependency that gives the topic's placeholders as the channel's guards validate them."""
    annotations = {name: _find(name, parameters) for name in topic.placeholders}
    missing = [name for name, annotation in annotations.items() if annotation is None]
    if missing:
        raise TypeError(f"{cls.__name__}: no guard of it takes {missing[0]!r} of {topic}")

    async def values(connection: HTTPConnection, **validated: Any) -> dict[str, Any]:
        written = {**validated, **connection.path_params}
        if topic.at(**validated) != topic.at(**written):
            raise NotFound  # `007` would be validated as 7: one room, one name
        return validated

    values.__signature__ = _keywords(  # type: ignore[attr-defined]
        {"connection": HTTPConnection, **annotations}, {}
    )
    return values


def _find(name: str, parameters: Mapping[str, Any]) -> Any:
    """The annotation of the parameter called `name`, here or in any dependency below."""
    if name in parameters:
        return parameters[name]
    for annotation in parameters.values():
        depends = _dependency(annotation)
        if depends is None:
            continue
        call = depends.dependency or get_args(annotation)[0]
        found = _find(name, _hints(call))
        if found is not None:
            return found
    return None


def _hints(call: Any) -> dict[str, Any]:
    if inspect.isclass(call):
        call = call.__init__
    target = call if inspect.isroutine(call) else type(call).__call__
    hints = get_type_hints(target, include_extras=True)
    hints.pop("return", None)
    return hints
