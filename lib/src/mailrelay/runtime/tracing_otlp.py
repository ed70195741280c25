"""Spans through the OpenTelemetry SDK, exported by OTLP over HTTP.

The SDK reads the standard variables itself (endpoint, headers, sampler, resource attributes).
Imported only when one of them asks for traces.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_NANOSECONDS = 1_000_000_000


class _RecordedSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = (
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        )

    def end(self, attributes: Mapping[str, str | int | float], error: str = "") -> None:
        self._span.set_attributes(dict(attributes))
        if error:
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.end()


class OtlpTracing:
    """See the module."""

    def __init__(self, service: str) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: f"mailrelay-{service}"})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("mailrelay")
        self._propagator = TraceContextTextMapPropagator()

    def start(self, name: str, parent: str, *, started_at: float | None = None) -> _RecordedSpan:
        """Start a span below `parent`."""
        context = self._propagator.extract({"traceparent": parent}) if parent else None
        start_time = int(started_at * _NANOSECONDS) if started_at is not None else None
        return _RecordedSpan(self._tracer.start_span(name, context, start_time=start_time))

    def close(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()
