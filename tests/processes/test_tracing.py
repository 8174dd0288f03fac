"""Traces of a whole process: its log names them, and what waits is sent as it ends."""

import json

from tests.otlp import Collector
from tests.process import running


def test_the_log_names_the_trace_and_the_end_sends_it() -> None:
    """Each line about a request has the id of its trace; the queue is emptied at the end."""
    with Collector() as collector:
        given = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_SERVICE_NAME": "ours",
        }
        with running(LOG_FORMAT="json", **given) as process:
            process.get("/errors")
            assert collector.names == []
        assert process.ended() == 0
        (span,) = collector.named("GET /errors")
    lines = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    (line,) = [each for each in lines if each.get("path") == "/errors"]
    assert line["trace_id"] == span.trace
    assert line["request_id"] == span.attributes["request_id"]
    assert span.service == "ours"


def test_without_traces_the_log_names_none() -> None:
    """Nothing but the request id."""
    with running(LOG_FORMAT="json") as process:
        process.get("/errors")
    assert process.ended() == 0
    assert "request_id" in process.output
    assert "trace_id" not in process.output
