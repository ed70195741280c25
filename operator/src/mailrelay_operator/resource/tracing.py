"""Traces: where spans of the relay's pods go."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mailrelay_operator.resource.schema import Section, Shape

Endpoint = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Shape(
        r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$",
        "must be http://host:port or https://host:port of a collector that takes OTLP over HTTP, "
        "without user and password",
    ),
]


class Tracing(Section):
    """Spans of accepting mail and of each attempt, by OTLP over HTTP.

    They join the trace that a client names in the header `traceparent`.
    """

    endpoint: Endpoint = Field(
        description="Collector, such as `http://collector.monitoring.svc:4318`; `/v1/traces` is "
        "added to it."
    )
    sample_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=100,
        description="How many of 100 messages are traced, where no client has decided it.",
    )
