"""W3C trace context from the client's header to the delivery attempt.

Without the standard `OTEL_*` variables nothing of OpenTelemetry is imported and a span costs a
few string operations: the context is passed on (or begun) all the same, so that the next hop's
traces join up.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Protocol

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class Span(Protocol):
    """A piece of work under way; `traceparent` names it to whoever works on it next."""

    traceparent: str

    def end(self, attributes: Mapping[str, str | int | float], error: str = "") -> None:
        """Finish the span."""


class Tracing(Protocol):
    """Starts spans."""

    def start(self, name: str, parent: str, *, started_at: float | None = None) -> Span:
        """Start a span below `parent` (a traceparent, or empty for a new trace)."""

    def close(self) -> None:
        """Send what was not sent yet."""


def is_traceparent(text: str) -> bool:
    """Tell whether `text` is a valid version 00 traceparent."""
    match = _TRACEPARENT.fullmatch(text)
    return match is not None and match[1] != _NO_TRACE and match[2] != _NO_SPAN


class _PassedOn:
    """A span that nobody records."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def end(self, attributes: Mapping[str, str | int | float], error: str = "") -> None:
        """Nothing is recorded."""


class _NoTracing:
    def start(self, name: str, parent: str, *, started_at: float | None = None) -> Span:  # noqa: ARG002 — the base's signature
        if is_traceparent(parent):
            return _PassedOn(parent)
        return _PassedOn(f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00")

    def close(self) -> None:
        """Nothing to send."""


def tracing_from_environ(service: str, environ: Mapping[str, str]) -> Tracing:
    """Return tracing by OTLP when `OTEL_*` asks for it, otherwise one that only passes on."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return _NoTracing()
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    if exporter == "none" or not (endpoint or exporter == "otlp"):
        return _NoTracing()
    from mailrelay.runtime.tracing_otlp import OtlpTracing  # noqa: PLC0415 — costs 40 MB, 0.4 s

    return OtlpTracing(service)
