"""How much mail is accepted of whom."""

from __future__ import annotations

from pydantic import Field

from mailrelay.config.model.section import LIVE, Section
from mailrelay.mail.limit import Scope, Window


class RateLimits(Section):
    """How many messages are accepted."""

    enabled: bool = Field(
        default=False,
        description="Whether the limits below hold.",
        json_schema_extra=LIVE,
    )
    max_per_hour: int = Field(
        default=500,
        ge=1,
        description="Messages a sender and hour.",
        json_schema_extra=LIVE,
    )
    max_per_day: int = Field(
        default=2000,
        ge=1,
        description="Messages a sender and day.",
        json_schema_extra=LIVE,
    )
    global_max_per_hour: int = Field(
        default=1000,
        ge=1,
        description="Messages an hour in all.",
        json_schema_extra=LIVE,
    )
    global_max_per_day: int = Field(
        default=5000,
        ge=1,
        description="Messages a day in all.",
        json_schema_extra=LIVE,
    )

    def most(self, scope: Scope, window: Window) -> int:
        """Return how many messages one limit allows, whether limits hold or not."""
        by_limit = {
            (Scope.SENDER, Window.HOUR): self.max_per_hour,
            (Scope.SENDER, Window.DAY): self.max_per_day,
            (Scope.GLOBAL, Window.HOUR): self.global_max_per_hour,
            (Scope.GLOBAL, Window.DAY): self.global_max_per_day,
        }
        return by_limit[scope, window]
