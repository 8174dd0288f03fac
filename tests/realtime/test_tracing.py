"""Traces, received as a collector receives them: at both doors, through jobs and processes."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, Request
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser
from app.core.db import Database
from app.core.errors import Forbidden, raises
from app.core.jobs import Job, JobRun, Jobs
from app.core.outbound import Outbound
from app.realtime import Channel, Hub, Message, Topic, on
from tests.core.upstream import Upstream, response
from tests.otlp import Collector, ReceivedSpan
from tests.redis import OwnRedis
from tests.server import RunningServer

Serve = Callable[..., RunningServer]

SECRET = "hunter2-in-a-query"
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
INTERNAL, SERVER, CLIENT_KIND, PRODUCER, CONSUMER = range(1, 6)

router = APIRouter(prefix="/traced")


class Say(Message):
    """Something to say."""

    type = "say"
    text: str


class Said(Message):
    """Something that was said."""

    type = "said"
    text: str


class Echo(Job):
    """Something to say later."""

    name = "traced.echo"
    text: str


told = Topic[Said]("traced:{room}", durable=True)


async def _room(room: str) -> str:
    return room


Room = Annotated[str, Depends(_room)]


@router.websocket("/{room}/ws")
class TracedChannel(Channel):
    """Says what it is told, at once or later."""

    topic = told
    room: Room
    db: Database
    hub: Hub

    @on
    @raises(Forbidden)
    async def say(self, say: Say) -> None:
        """Say it, unless it is `no`."""
        if say.text == "no":
            raise Forbidden("hunter3")
        async with self.db.unit_of_work() as uow:
            self.hub.publish(uow, told.at(room=self.room), Said(text=say.text))


@router.websocket("/closed/by/guard")
class ClosedChannel(Channel):
    """For nobody without a token."""

    user: CurrentUser


@router.post("/later", status_code=202)
async def later(db: Database, jobs: Jobs, text: str = "x") -> None:
    """Say it later."""
    async with db.unit_of_work() as uow:
        jobs.enqueue(uow, Echo(text=text))


@router.get("/out")
async def out(outbound: Outbound, request: Request, to: str) -> int:
    """Ask somebody else."""
    return (await outbound.request("GET", to)).status_code


@router.get("/fails")
async def fails() -> None:
    """Fail, with a secret."""
    raise RuntimeError(SECRET)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """What receives the spans of servers that are started from now on."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with Collector() as receiving:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiving.url)
        yield receiving


def traced(serve: Serve, **changed: object) -> RunningServer:
    """A server with the routes, which does the job."""
    server = serve(router, **changed)

    async def echo(job: Echo, run: JobRun) -> None:
        run.state.hub.publish(run.uow, told.at(room="1"), Said(text=job.text))

    server.app.state.jobs.routes.on(Echo)(echo)
    return server


async def received(collector: Collector, name: str, count: int = 1) -> list[ReceivedSpan]:
    """The spans of this name, while the servers of this loop go on."""
    return await asyncio.to_thread(collector.named, name, count)


async def test_a_request_is_a_span(serve: Serve, collector: Collector) -> None:
    """By the pattern of its route, in the client's trace; health checks have none."""
    server = traced(serve)
    async with server.client() as client:
        await client.get("/health/live")
        answer = await client.post(
            "/traced/later", headers={"traceparent": CLIENT, "X-Request-ID": "mine.0001"}
        )
        assert (await client.get("/traced/fails")).status_code == 500
    (span,) = await received(collector, "POST /traced/later")
    assert answer.headers["X-Request-ID"] == span.attributes["request_id"] == "mine.0001"
    assert (span.trace, span.parent) == tuple(CLIENT.split("-")[1:3])
    assert (span.kind, span.failed, span.service) == (SERVER, False, "duplex")
    assert span.attributes["http.route"] == "/traced/later"
    assert (await received(collector, "GET /traced/fails"))[0].failed
    assert not [name for name in collector.names if "health" in name]


async def test_no_query_and_no_secret_is_in_a_trace(serve: Serve, collector: Collector) -> None:
    """Tickets, cursors and texts of errors are in none of the bytes that are sent."""
    server = traced(serve)
    async with server.client() as client:
        await client.get(f"/traced/fails?ticket={SECRET}&limit=7")
        await client.get(f"/nowhere?cursor={SECRET}")
        async with server.socket(f"/traced/1/ws?ticket={SECRET}") as socket:
            await socket.until("welcome")
            assert (await socket.ask("say", {"text": "no"}))["type"] == "error"
    await received(collector, "GET /traced/fails")
    await received(collector, "GET /{path}")
    await received(collector, "WS /traced/{room}/ws")
    await received(collector, "TracedChannel say")
    raw = b"".join(collector.raw)
    assert b"hunter" not in raw
    assert b"query" not in raw
    assert b"/nowhere" in raw


async def test_a_message_is_a_trace_of_its_own(serve: Serve, collector: Collector) -> None:
    """It links to the handshake, whose span has ended while the socket is open."""
    server = traced(serve)
    async with server.socket("/traced/1/ws") as socket:
        await socket.until("welcome")
        (handshake,) = await received(collector, "WS /traced/{room}/ws")
        assert handshake.attributes["http.response.status_code"] == 101
        for text in ("yes", "no"):
            await socket.ask("say", {"text": text})
        first, second = await received(collector, "TracedChannel say", 2)
        (publish,) = await received(collector, "publish traced:{room}")
    assert first.links == second.links == ((handshake.trace, handshake.id),)
    assert len({first.trace, second.trace, handshake.trace}) == 3
    assert first.attributes["request_id"] == handshake.attributes["request_id"]
    assert "error.type" not in first.attributes
    assert (second.attributes["error.type"], second.failed) == ("forbidden", False)
    assert (publish.trace, publish.parent, publish.kind) == (first.trace, first.id, PRODUCER)


async def test_a_refused_handshake_is_a_span(serve: Serve, collector: Collector) -> None:
    """With the status that the client is told."""
    server = traced(serve)
    with pytest.raises(InvalidStatus):
        async with server.socket("/traced/closed/by/guard"):
            pass
    (span,) = await received(collector, "WS /traced/closed/by/guard")
    assert span.attributes["http.response.status_code"] == 401


async def test_a_job_is_in_the_trace_of_who_wanted_it(serve: Serve, collector: Collector) -> None:
    """And so is what it publishes."""
    server = traced(serve)
    async with server.client() as client:
        await client.post("/traced/later")
    (wanted,) = await received(collector, "POST /traced/later")
    (job,) = await received(collector, "job traced.echo")
    (publish,) = await received(collector, "publish traced:{room}")
    assert (job.trace, job.parent, job.kind) == (wanted.trace, wanted.id, CONSUMER)
    assert (publish.trace, publish.parent) == (job.trace, job.id)


@pytest.mark.parametrize("over_redis", [True, False], ids=["redis", "log"])
async def test_a_delivery_elsewhere_is_in_the_trace_of_the_publisher(
    serve: Serve, collector: Collector, own_redis: OwnRedis, over_redis: bool
) -> None:
    """Whether the other process hears of it over Redis or reads it in the log."""
    changed = {"redis_url": SecretStr(own_redis.url)} if over_redis else {}
    one, other = (traced(serve, **changed) for _ in range(2))
    async with other.socket("/traced/1/ws") as hears, one.socket("/traced/1/ws") as says:
        await hears.until("welcome")
        await says.ask("say", {"text": "to all"})
        assert (await hears.until("said"))["data"] == {"text": "to all"}
        (publish,) = await received(collector, "publish traced:{room}")
        (deliver, *_) = await received(collector, "deliver traced:{room}")
    assert (deliver.trace, deliver.parent, deliver.kind) == (publish.trace, publish.id, CONSUMER)


async def test_a_call_of_another_service_takes_the_trace_along(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `traceparent`; without traces none is sent."""
    async with Upstream(response()) as upstream:
        server = traced(serve)
        async with server.client() as client:
            await client.get("/traced/out", params={"to": upstream.url})
        (span,) = await received(collector, "GET /traced/out")
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
        async with traced(serve).client() as client:
            await client.get(
                "/traced/out", params={"to": upstream.url}, headers={"traceparent": CLIENT}
            )
    first, second = upstream.asked
    assert first.headers["traceparent"] == f"00-{span.trace}-{span.id}-{flags(first.headers)}"
    assert "traceparent" not in second.headers


def flags(headers: object) -> str:
    """The flags of a `traceparent`, of which the first is that it is sampled."""
    given = str(headers["traceparent"]).rsplit("-", 1)[1]  # type: ignore[index]
    assert int(given, 16) & 1
    return given


async def test_what_is_not_sampled_is_not_sent(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the standard sampler variables; a client's own decision holds where they say so."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    server = traced(serve)
    async with server.client() as client:
        await client.get("/traced/fails")
        await client.get("/errors")
        await client.post("/traced/later", headers={"traceparent": CLIENT})
    await received(collector, "POST /traced/later")
    await received(collector, "publish traced:{room}")
    assert "GET /traced/fails" not in collector.names
    assert "GET /errors" not in collector.names


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "is away"])
def test_a_collector_that_is_away_keeps_nobody(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """More requests than the queue holds spans are answered, and the server ends in time."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    with Collector(hangs=hangs) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", silent.url)
        if not hangs:
            silent.__exit__()
        server = traced(serve)
        asyncio.run(_ask(server, 60))
        began = time.monotonic()
        server.__exit__(None, None, None)
        assert time.monotonic() - began < 10


async def _ask(server: RunningServer, times: int) -> None:
    async with server.client() as client:
        for _ in range(times):
            assert (await client.post("/traced/later")).status_code == 202


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
    ],
    ids=["nothing", "empty", "disabled", "none", "grpc", "no address"],
)
async def test_without_a_collector_nothing_is_set_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    """The service is as always, and no span is made."""
    if given and "OTEL_EXPORTER_OTLP_ENDPOINT" not in given:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    server = traced(serve)
    assert not server.app.state.tracing.on
    async with server.client() as client:
        assert (await client.get("/health/live")).status_code == 200
