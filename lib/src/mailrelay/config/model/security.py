"""Who may use the relay by SMTP."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from mailrelay.config.model.section import LIVE, Section
from mailrelay.config.networks import parse_network


class Security(Section):
    """Who may use the relay."""

    allow_local_only: bool = Field(
        default=True,
        description="Whether only clients on a loopback address are served.",
        json_schema_extra=LIVE,
    )
    allowed_networks: tuple[str, ...] = Field(
        default=(),
        description="Networks (CIDR) whose clients are served too while `allowLocalOnly` is true.",
        json_schema_extra=LIVE,
    )
    trust_loopback: bool = Field(
        default=True,
        description="Whether a client on a loopback address has rights by that: to be served while "
        "`allowLocalOnly` is true, to send a password without TLS, and to do everything over HTTP "
        "without the token. False where loopback is not this machine's people alone.",
    )
    log_all_emails: bool = Field(
        default=True,
        description="Whether the content of all mail is kept on disk.",
        json_schema_extra=LIVE,
    )
    require_auth: bool = Field(
        default=True,
        description="Whether a client must authenticate before MAIL.",
        json_schema_extra=LIVE,
    )
    users_file: Path | None = Field(
        default=None,
        description="File of further users with argon2 hashes (`mailrelay users add` writes it); "
        "read again when it changes.",
        json_schema_extra=LIVE,
    )
    allow_plaintext_auth: bool = Field(
        default=False,
        description="Whether a client elsewhere may send its password without TLS.",
        json_schema_extra=LIVE,
    )

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, found: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(parse_network(text)) for text in found)

    @model_validator(mode="after")
    def _one_door(self) -> Security:
        if self.allowed_networks and not self.allow_local_only:
            msg = (
                "allowedNetworks limits nothing while allowLocalOnly is false: "
                "set allowLocalOnly to true, or leave allowedNetworks out"
            )
            raise ValueError(msg)
        if self.trust_loopback:
            return self
        if self.allow_local_only and not self.allowed_networks:
            msg = (
                "allowLocalOnly is true and nobody is local while trustLoopback is false, as in a "
                "container: set allowedNetworks to those that may send, or allowLocalOnly to false"
            )
            raise ValueError(msg)
        if not self.allow_local_only and not self.require_auth:
            msg = (
                "requireAuth and allowLocalOnly are both false while trustLoopback is false, as in "
                "a container: whoever reaches the port could send. Set requireAuth to true, or "
                "allowLocalOnly to true with allowedNetworks"
            )
            raise ValueError(msg)
        return self
