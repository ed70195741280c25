"""Every option of a relay: the guide's (same keys, same defaults) and the project's own.

Keys in files are camelCase; the environment overrides each by the SCREAMING_SNAKE of its path
(`rateLimits.maxPerHour` is `RATE_LIMITS_MAX_PER_HOUR`). docs/decisions/0005 says why the file
of the original guide works unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from mailrelay.config.networks import parse_network
from mailrelay.mail.limit import Scope, Window

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]

# Marks an option whose change is taken over while the relay runs (docs/decisions/0020). Without
# the mark a change needs a restart, which is what is true of an option nobody subscribed to.
LIVE: Final[JsonDict] = {"reloadable": True}

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


class Security(_Section):
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


class Retry(_Section):
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


class Failed(_Section):
    """The failed store: mail that could not be delivered. Past a limit the oldest goes first."""

    resend_interval_seconds: float = Field(
        default=3600,
        ge=0,
        le=30 * 24 * 3600,
        description="How often each recipient that expired is tried once more; 0: by hand only.",
    )
    resend_bounced: bool = Field(
        default=False,
        description="Whether that holds for recipients that were refused for good, too.",
    )
    max_records: int = Field(
        default=100_000, ge=1, le=10_000_000, description="Recipients kept in the failed store."
    )
    max_bytes: int = Field(
        default=0,
        ge=0,
        description="What they may use in the queue; 0, or more than there is: 90 % of the failed "
        "store's share of it.",
    )
    max_age_seconds: float = Field(
        default=90 * 24 * 3600,
        ge=0,
        description="A failed recipient is kept this long after its message was accepted; "
        "0: without end.",
    )


class Tls(_Section):
    """The listener's certificate; STARTTLS is offered when there is one.

    Files are read again when they change; sessions that are open go on.
    """

    cert_file: Path | None = Field(default=None, description="PEM file: certificate and chain.")
    key_file: Path | None = Field(default=None, description="PEM file: private key.")
    self_signed: bool = Field(
        default=False,
        description="Whether the relay makes a certificate of its own, kept in the data folder and "
        "renewed 30 days before its end.",
    )
    smtps_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port with TLS from the first octet (465 by custom), on `smtpHost`; 0: none.",
    )

    @model_validator(mode="after")
    def _both(self) -> Tls:
        if (self.cert_file is None) != (self.key_file is None):
            msg = "certFile and keyFile must be set together"
            raise ValueError(msg)
        if self.self_signed and self.cert_file is not None:
            msg = "selfSigned is true and certFile is set: leave one of them out"
            raise ValueError(msg)
        if self.smtps_port and not self.is_on:
            msg = "smtpsPort needs a certificate: set certFile and keyFile, or selfSigned to true"
            raise ValueError(msg)
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is a certificate at all."""
        return self.self_signed or self.cert_file is not None


class Emails(_Section):
    """The content that `security.logAllEmails` keeps, in `emails` under the data folder."""

    keep_seconds: Seconds = Field(
        default=7 * 24 * 3600, description="Content older than this goes, within a minute."
    )
    max_bytes: int = Field(
        default=1024**3,
        ge=1024**2,
        description="Bytes kept in all; beyond, the oldest goes, within a minute.",
    )


class Http(_Section):
    """Who may ask over HTTP. This machine always may (docs/decisions/0021)."""

    listen: tuple[str, ...] = Field(
        default=("localhost",),
        min_length=1,
        description="Addresses or names to listen on, with port `healthCheckPort`; `localhost` is "
        "IPv4 and IPv6 loopback.",
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
            msg = f"must be 1, 3 or 5, is {replicas}"
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
