"""Without OTEL_* the context is only passed on; with it, real spans reach a real collector."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mailrelay.runtime.tracing import is_traceparent, tracing_from_environ
from tests.support.otlp import collector

TRACE, SPAN = "ab" * 16, "cd" * 8
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish",
        f"01-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_an_invalid_traceparent_begins_a_new_trace(text: str) -> None:
    assert not is_traceparent(text)
    tracing = tracing_from_environ("ingress", {})
    first, second = (tracing.start("x", text).traceparent for _ in range(2))
    assert is_traceparent(first)
    assert first != second


def test_a_valid_traceparent_is_passed_on_unchanged() -> None:
    span = tracing_from_environ("ingress", {}).start("x", PARENT, started_at=1.0)
    assert span.traceparent == PARENT
    span.end({"a": 1}, error="bad")


@pytest.mark.parametrize("service", ["ingress", "sender"])
@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_nothing_of_opentelemetry_is_imported_unless_traces_are_asked_for(
    environ: dict[str, str], service: str
) -> None:
    program = (
        "import sys, os\n"
        f"import mailrelay_{service}.main\n"
        "from mailrelay.runtime.tracing import tracing_from_environ\n"
        "tracing_from_environ('ingress', os.environ).start('x', '').end({})\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_spans_reach_the_collector_below_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (url, arrived, paths):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        tracing = tracing_from_environ("sender", {"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        outer = tracing.start("accept", PARENT, started_at=1_700_000_000.0)
        inner = tracing.start("attempt", outer.traceparent)
        inner.end({"mailrelay.attempt": 2}, error="451 4.4.1 away")
        outer.end({})
        tracing.start("alone", "").end({})
        tracing.close()
    found: dict[str, Span] = {}
    for request in arrived:
        for resource in request.resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert names["service.name"] == "mailrelay-sender"
            found |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert set(paths) == {"/v1/traces"}
    assert set(found) == {"accept", "attempt", "alone"}
    accept, attempt, alone = found["accept"], found["attempt"], found["alone"]
    assert accept.trace_id.hex() == attempt.trace_id.hex() == TRACE
    assert accept.parent_span_id.hex() == SPAN
    assert attempt.parent_span_id == accept.span_id
    assert outer.traceparent == f"00-{TRACE}-{accept.span_id.hex()}-01"
    assert accept.start_time_unix_nano == 1_700_000_000 * 10**9
    assert attempt.status.code == 2
    assert attempt.status.message == "451 4.4.1 away"
    assert {each.key: each.value.int_value for each in attempt.attributes} == {
        "mailrelay.attempt": 2
    }
    assert alone.parent_span_id == b""
    assert alone.trace_id != accept.trace_id


def test_a_collector_that_is_away_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:9"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracing = tracing_from_environ("sender", {"OTEL_EXPORTER_OTLP_ENDPOINT": url})
    span = tracing.start("x", PARENT)
    span.end({})
    assert is_traceparent(span.traceparent)
    tracing.close()
