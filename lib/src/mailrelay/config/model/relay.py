"""A whole relay: the options of the top level, and the sections."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from mailrelay.config.model.http import Http
from mailrelay.config.model.limits import RateLimits
from mailrelay.config.model.queue import Queue
from mailrelay.config.model.retry import Retry
from mailrelay.config.model.routes import MAX_ROUTES, Route, contradiction
from mailrelay.config.model.section import LIVE, Port, Section
from mailrelay.config.model.security import Security
from mailrelay.config.model.stores import Capture, Emails, Failed
from mailrelay.config.model.tls import Tls


class RelayConfig(Section):
    """A whole relay."""

    smtp_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address or name to listen on; `localhost` is IPv4 and IPv6 loopback, "
        "`0.0.0.0` all IPv4, `::` all IPv6 addresses, `*` all of both.",
    )
    smtp_port: Port = Field(default=25, description="Port to listen on.")
    default_username: str = Field(
        default="",
        description="User name for SMTP AUTH.",
        json_schema_extra=LIVE,
    )
    default_password: SecretStr = Field(
        default=SecretStr(""),
        description="Password for SMTP AUTH.",
        json_schema_extra=LIVE,
    )
    host_name: str = Field(
        default="",
        description="The relay's own name in greetings and Received; empty: the machine's.",
    )
    helo_name: str = Field(
        default="",
        description="The name said to the upstream in EHLO; empty: `hostName`.",
        json_schema_extra=LIVE,
    )
    max_message_bytes: int = Field(
        default=50 * 1024 * 1024, ge=1024, description="Largest message taken (SIZE)."
    )
    max_connections: int = Field(
        default=1000, ge=1, le=100_000, description="SMTP clients at once for each ingress process."
    )

    forward_smtp: bool = Field(
        default=False,
        description="Whether mail goes on to an upstream; otherwise it is captured.",
        json_schema_extra=LIVE,
    )
    forward_host: str = Field(
        default="",
        description="The upstream's name or address.",
        json_schema_extra=LIVE,
    )
    forward_port: Port = Field(
        default=587,
        description="The upstream's port.",
        json_schema_extra=LIVE,
    )
    forward_username: str = Field(
        default="",
        description="User name at the upstream.",
        json_schema_extra=LIVE,
    )
    forward_password: SecretStr = Field(
        default=SecretStr(""),
        description="Password at the upstream.",
        json_schema_extra=LIVE,
    )
    forward_ssl: bool = Field(
        default=False,
        description="TLS from the first octet (port 465); otherwise STARTTLS when offered.",
        json_schema_extra=LIVE,
    )
    forward_verify_tls: bool = Field(
        default=True,
        description="Whether the upstream's certificate must be valid for its name.",
        json_schema_extra=LIVE,
    )
    forward_ca_file: Path | None = Field(
        default=None,
        description="PEM file of authorities to trust instead of the system's.",
        json_schema_extra=LIVE,
    )

    routes: tuple[Route, ...] = Field(
        default=(),
        max_length=MAX_ROUTES,
        description="Ways of their own for recipients of some domains, each with one or more smart "
        "hosts. Recipients that no route takes go to `forwardHost`, or are captured.",
        json_schema_extra=LIVE,
    )

    worker_count: int = Field(
        default=5, ge=1, le=1000, description="Deliveries at once for each sender process."
    )
    queue_size: int = Field(
        default=1000,
        ge=1,
        le=10_000_000,
        description="Jobs accepted and not yet through their first attempt; beyond: 452.",
    )
    processing_timeout: int = Field(
        default=300,
        ge=1,
        le=7200,
        description="Seconds for one delivery attempt.",
        json_schema_extra=LIVE,
    )

    batch_size: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="Recipients a job.",
        json_schema_extra=LIVE,
    )
    batch_delay: int = Field(
        default=1000,
        ge=0,
        le=3_600_000,
        description="Milliseconds between a message's jobs: from the end of one's first attempt to "
        "the next one's.",
        json_schema_extra=LIVE,
    )
    continue_on_error: bool = Field(
        default=True,
        description="Whether a message's other jobs go on after a recipient failed for good; "
        "otherwise those that were not tried yet end in the failed store.",
        json_schema_extra=LIVE,
    )

    enable_health_check: bool = Field(default=True, description="Whether HTTP is served.")
    health_check_port: Port = Field(default=8025, description="HTTP port.")

    rate_limits: RateLimits = Field(default=RateLimits(), description="Limits on accepted mail.")
    security: Security = Field(default=Security(), description="Who may use the relay.")
    retry: Retry = Field(default=Retry(), description="When deferred mail is tried again.")
    capture: Capture = Field(default=Capture(), description="Mail kept instead of forwarded.")
    failed: Failed = Field(default=Failed(), description="Mail that could not be delivered.")
    tls: Tls = Field(default=Tls(), description="The listener's certificate.")
    http: Http = Field(default=Http(), description="Who may ask over HTTP.")
    emails: Emails = Field(default=Emails(), description="Content kept beside the queue.")
    queue: Queue = Field(default=Queue(), description="The queue underneath.")

    @model_validator(mode="after")
    def _consistent(self) -> RelayConfig:
        if self.forward_smtp and not self.forward_host:
            msg = "forwardSMTP is true, so forwardHost must name the upstream"
            raise ValueError(msg)
        if bool(self.default_username) != bool(self.default_password.get_secret_value()):
            msg = "defaultUsername and defaultPassword must be set together"
            raise ValueError(msg)
        if bool(self.forward_username) != bool(self.forward_password.get_secret_value()):
            msg = "forwardUsername and forwardPassword must be set together"
            raise ValueError(msg)
        if words := contradiction(self.routes, forwards=self.forward_smtp):
            raise ValueError(words)
        has_users = bool(self.default_username or self.security.users_file)
        if self.security.require_auth and not has_users:
            msg = (
                "security.requireAuth is true and there is no user: set defaultUsername and "
                "defaultPassword, or security.usersFile, or set security.requireAuth to false"
            )
            raise ValueError(msg)
        if self.tls.smtps_port in {self.smtp_port, self.health_check_port}:
            msg = f"tls.smtpsPort {self.tls.smtps_port} is smtpPort or healthCheckPort too"
            raise ValueError(msg)
        return self
