"""When deferred mail is tried again."""

from __future__ import annotations

from pydantic import Field, model_validator

from mailrelay.config.model.section import LIVE, Seconds, Section


class Retry(Section):
    """When a deferred recipient is tried again. By default about 38 attempts in five days."""

    max_attempts: int = Field(
        default=100,
        ge=1,
        le=1000,
        description="Attempts in all, the first included.",
        json_schema_extra=LIVE,
    )
    initial_interval_seconds: Seconds = Field(
        default=60,
        description="Pause after the first attempt.",
        json_schema_extra=LIVE,
    )
    multiplier: float = Field(
        default=2,
        ge=1,
        le=100,
        description="How much longer each pause is than the last.",
        json_schema_extra=LIVE,
    )
    max_interval_seconds: Seconds = Field(
        default=4 * 3600,
        description="No pause is longer than this.",
        json_schema_extra=LIVE,
    )
    max_age_seconds: Seconds = Field(
        default=5 * 24 * 3600,
        description="A recipient not delivered this long after acceptance has expired.",
        json_schema_extra=LIVE,
    )

    @model_validator(mode="after")
    def _ordered(self) -> Retry:
        if self.initial_interval_seconds > self.max_interval_seconds:
            msg = "initialIntervalSeconds must not be greater than maxIntervalSeconds"
            raise ValueError(msg)
        return self
