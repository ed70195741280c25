"""Who may ask over HTTP."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from mailrelay.config.model.section import LIVE, Section
from mailrelay.config.networks import parse_network


class Http(Section):
    """Who may ask over HTTP. This machine always may (docs/decisions/0021)."""

    listen: tuple[str, ...] = Field(
        default=("localhost",),
        min_length=1,
        description="Addresses or names to listen on, with port `healthCheckPort`; `localhost` is "
        "IPv4 and IPv6 loopback, `*` every address of both families.",
    )
    allowed_networks: tuple[str, ...] = Field(
        default=(),
        description="Other clients that are answered, such as `10.0.0.0/8`: `/healthz`, `/readyz`, "
        "`/health` and `/metrics` without the token, everything else with it.",
        json_schema_extra=LIVE,
    )
    token_file: Path | None = Field(
        default=None,
        description="File with the token that clients of other machines show as "
        "`Authorization: Bearer …`; 32 characters or more. Without it they may not do what needs "
        "one.",
        json_schema_extra=LIVE,
    )

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, found: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(parse_network(text)) for text in found)
