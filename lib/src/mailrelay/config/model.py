"""Every option of a relay: the guide's (same keys, same defaults) and the project's own.

Keys in files are camelCase; the environment overrides each by the SCREAMING_SNAKE of its path
(`rateLimits.maxPerHour` is `RATE_LIMITS_MAX_PER_HOUR`). docs/decisions/0005 says why the file
of the original guide works unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic.alias_generators import to_camel

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]

# Acronyms that the guide's keys write in capitals.
_SPELLED = {
    "forward_smtp": "forwardSMTP",
    "forward_ssl": "forwardSSL",
    "forward_verify_tls": "forwardVerifyTLS",
    "forward_ca_file": "forwardCAFile",
    "tls": "tls",
}


def _key(name: str) -> str:
    return _SPELLED.get(name) or to_camel(name)


class _Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=_key,
        validate_by_alias=True,
        validate_by_name=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )


class RateLimits(_Section):
    """How many messages are accepted."""

    enabled: bool = Field(default=False, description="Whether the limits below hold.")
    max_per_hour: int = Field(default=500, ge=1, description="Messages a sender and hour.")
    max_per_day: int = Field(default=2000, ge=1, description="Messages a sender and day.")
    global_max_per_hour: int = Field(default=1000, ge=1, description="Messages an hour in all.")
    global_max_per_day: int = Field(default=5000, ge=1, description="Messages a day in all.")


class Security(_Section):
    """Who may use the relay."""

    allow_local_only: bool = Field(
        default=True, description="Whether only clients on a loopback address are served."
    )
    log_all_emails: bool = Field(
        default=True, description="Whether the content of all mail is kept on disk."
    )
    require_auth: bool = Field(
        default=True, description="Whether a client must authenticate before MAIL."
    )


class Retry(_Section):
    """When a deferred recipient is tried again. By default about 38 attempts in five days."""

    max_attempts: int = Field(
        default=100, ge=1, le=1000, description="Attempts in all, the first included."
    )
    initial_interval_seconds: Seconds = Field(
        default=60, description="Pause after the first attempt."
    )
    multiplier: float = Field(
        default=2, ge=1, le=100, description="How much longer each pause is than the last."
    )
    max_interval_seconds: Seconds = Field(
        default=4 * 3600, description="No pause is longer than this."
    )
    max_age_seconds: Seconds = Field(
        default=5 * 24 * 3600,
        description="A recipient not delivered this long after acceptance has expired.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Retry:
        if self.initial_interval_seconds > self.max_interval_seconds:
            msg = "initialIntervalSeconds must not be greater than maxIntervalSeconds"
            raise ValueError(msg)
        return self


class Capture(_Section):
    """Mail that is kept because no upstream is configured."""

    max_messages: int = Field(
        default=10_000,
        ge=1,
        description="Captured jobs kept (a message has one per `batchSize` recipients).",
    )
    when_full: Literal["refuse", "dropOldest"] = Field(
        default="refuse",
        description="At the limit: keep what comes in the queue, which then answers 452 when it is "
        "full too; or let the oldest go.",
    )


class Tls(_Section):
    """The listener's certificate; STARTTLS is offered when it is set."""

    cert_file: Path | None = Field(default=None, description="PEM file: certificate and chain.")
    key_file: Path | None = Field(default=None, description="PEM file: private key.")

    @model_validator(mode="after")
    def _both(self) -> Tls:
        if (self.cert_file is None) != (self.key_file is None):
            msg = "certFile and keyFile must be set together"
            raise ValueError(msg)
        return self


class Queue(_Section):
    """The queue underneath."""

    prefix: str = Field(
        default="mailrelay",
        pattern=r"^[a-z][a-z0-9-]{0,39}$",
        description="First part of every name at NATS.",
    )
    store_bytes: int = Field(
        default=0,
        ge=0,
        description="What the queue may use on disk; 0: most of what is free at the first start.",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        le=5,
        description="Copies of each record, each on a server of its own: 1, 3 or 5. More than 1 "
        "needs a NATS cluster of as many servers; `mailrelay run` starts one.",
    )
    ack_wait_seconds: float = Field(
        default=30,
        ge=1,
        le=600,
        description="After a sender's crash its open mail is taken up by another this soon.",
    )

    @field_validator("replicas")
    @classmethod
    def _odd(cls, replicas: int) -> int:
        """Refuse even numbers: they cost a copy more and bear no more failures."""
        if replicas % 2 == 0:
            msg = "must be 1, 3 or 5"
            raise ValueError(msg)
        return replicas


class RelayConfig(_Section):
    """A whole relay."""

    smtp_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address or name to listen on; `localhost` is IPv4 and IPv6 loopback, "
        "`0.0.0.0` all IPv4, `::` all IPv6 addresses.",
    )
    smtp_port: Port = Field(default=25, description="Port to listen on.")
    default_username: str = Field(default="", description="User name for SMTP AUTH.")
    default_password: SecretStr = Field(
        default=SecretStr(""), description="Password for SMTP AUTH."
    )
    host_name: str = Field(
        default="",
        description="The relay's own name in greetings, EHLO and Received; empty: the machine's.",
    )
    max_message_bytes: int = Field(
        default=50 * 1024 * 1024, ge=1024, description="Largest message taken (SIZE)."
    )
    max_connections: int = Field(
        default=1000, ge=1, le=100_000, description="SMTP clients at once for each ingress process."
    )

    forward_smtp: bool = Field(
        default=False, description="Whether mail goes on to an upstream; otherwise it is captured."
    )
    forward_host: str = Field(default="", description="The upstream's name or address.")
    forward_port: Port = Field(default=587, description="The upstream's port.")
    forward_username: str = Field(default="", description="User name at the upstream.")
    forward_password: SecretStr = Field(
        default=SecretStr(""), description="Password at the upstream."
    )
    forward_ssl: bool = Field(
        default=False,
        description="TLS from the first octet (port 465); otherwise STARTTLS when offered.",
    )
    forward_verify_tls: bool = Field(
        default=True, description="Whether the upstream's certificate must be valid for its name."
    )
    forward_ca_file: Path | None = Field(
        default=None, description="PEM file of authorities to trust instead of the system's."
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
        default=300, ge=1, le=7200, description="Seconds for one delivery attempt."
    )

    batch_size: int = Field(default=20, ge=1, le=1000, description="Recipients a job.")
    batch_delay: int = Field(
        default=1000, ge=0, le=3_600_000, description="Milliseconds between a message's jobs."
    )
    continue_on_error: bool = Field(
        default=True, description="Whether a message's other jobs go on after a recipient failed."
    )

    enable_health_check: bool = Field(default=True, description="Whether HTTP is served.")
    health_check_port: Port = Field(default=8025, description="HTTP port, on loopback.")

    rate_limits: RateLimits = Field(default=RateLimits(), description="Limits on accepted mail.")
    security: Security = Field(default=Security(), description="Who may use the relay.")
    retry: Retry = Field(default=Retry(), description="When deferred mail is tried again.")
    capture: Capture = Field(default=Capture(), description="Mail kept instead of forwarded.")
    tls: Tls = Field(default=Tls(), description="The listener's certificate.")
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
        if self.security.require_auth and not self.default_username:
            msg = (
                "security.requireAuth is true and there is no user: set defaultUsername and "
                "defaultPassword, or set security.requireAuth to false"
            )
            raise ValueError(msg)
        return self


# What `mailrelay run` without a configuration does differently: safe to start anywhere, useful
# at once, nothing leaves the machine. Applied below file and environment, above the defaults.
DEVELOPMENT_DEFAULTS: dict[str, object] = {
    "smtpHost": "localhost",
    "smtpPort": 2525,
    "security": {"requireAuth": False, "logAllEmails": False},
    "capture": {"maxMessages": 1000, "whenFull": "dropOldest"},
}
