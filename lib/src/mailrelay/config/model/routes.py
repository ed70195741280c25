"""Where mail goes: routes, their recipients' domains, their smart hosts (docs/decisions/0026)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from mailrelay.config.model.section import Port, Section
from mailrelay.mail.address import domain_key, is_domain
from mailrelay.mail.next_hop import format_next_hop, is_host

Tls = Literal["opportunistic", "starttls", "implicit"]

MAX_ROUTES: Final = 100  # each may be a label of five metrics
MAX_SMART_HOSTS: Final = 10  # an attempt shares its time out among them
MAX_DOMAINS: Final = 10_000

# What metrics call what is no route of this list.
_TAKEN_NAMES: Final = frozenset({"capture", "smarthost", "named"})


class SmartHost(Section):
    """A server that mail is handed to."""

    host: str = Field(min_length=1, description="Name or address.")
    port: Port = Field(default=587, description="Port.")
    tls: Tls = Field(
        default="starttls",
        description="`starttls`: nothing but with STARTTLS; `implicit`: TLS from the first octet "
        "(port 465); `opportunistic`: STARTTLS when it is offered, otherwise in the clear.",
    )
    verify_tls: bool = Field(
        default=True, description="Whether the certificate must be valid for the name."
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of authorities to trust instead of the system's."
    )
    username: str = Field(default="", description="User name for SMTP AUTH.")
    username_file: Path | None = Field(
        default=None, description="File with the user name, read again when it changes."
    )
    password: SecretStr = Field(default=SecretStr(""), description="Password for SMTP AUTH.")
    password_file: Path | None = Field(
        default=None,
        description="File with the password, which others may not read; read again when it "
        "changes.",
    )

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        if not is_host(host):
            msg = "must be a host name or an address, without a port"
            raise ValueError(msg)
        return host

    @model_validator(mode="after")
    def _credentials(self) -> SmartHost:
        if self.username and self.username_file is not None:
            msg = "username and usernameFile are both set: leave one of them out"
            raise ValueError(msg)
        if self.password.get_secret_value() and self.password_file is not None:
            msg = "password and passwordFile are both set: leave one of them out"
            raise ValueError(msg)
        has_user = bool(self.username or self.username_file)
        if has_user != bool(self.password.get_secret_value() or self.password_file):
            msg = (
                "a user name and a password must be set together: username or usernameFile, and "
                "password or passwordFile"
            )
            raise ValueError(msg)
        return self


class Route(Section):
    """Recipients whose mail goes the same way."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9-]{0,39}$", description="What logs and metrics call it."
    )
    recipient_domains: tuple[str, ...] | None = Field(
        default=None,
        max_length=MAX_DOMAINS,
        description="Whose mail it takes: `example.org` is this domain, `.example.org` all "
        "domains below it. The most specific entry of all routes decides. Left out: all "
        "recipients that no other route takes.",
    )
    smart_hosts: tuple[SmartHost, ...] = Field(
        min_length=1,
        max_length=MAX_SMART_HOSTS,
        description="Tried in this order: the next one, in the same attempt, when one fails "
        "before MAIL (connection, TLS, AUTH).",
    )

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in _TAKEN_NAMES:
            msg = f"must be another name than {', '.join(sorted(_TAKEN_NAMES))}"
            raise ValueError(msg)
        return name

    @field_validator("recipient_domains")
    @classmethod
    def _are_domains(cls, found: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if found is None:
            return None
        if not found:
            msg = "an empty list takes nobody: leave it out for all other recipients"
            raise ValueError(msg)
        for entry in found:
            if not is_domain(entry.removeprefix(".")):
                msg = (
                    f"{entry!r} is no domain: write example.org for a domain, .example.org for all "
                    "domains below it"
                )
                raise ValueError(msg)
        return tuple(domain_pattern(entry) for entry in found)

    @field_validator("smart_hosts")
    @classmethod
    def _differ(cls, found: tuple[SmartHost, ...]) -> tuple[SmartHost, ...]:
        seen: set[str] = set()
        for host in found:
            next_hop = format_next_hop(host.host, host.port)
            if next_hop in seen:
                msg = f"{next_hop} is there twice"
                raise ValueError(msg)
            seen.add(next_hop)
        return found


def domain_pattern(entry: str) -> str:
    """Return an entry in the one spelling under which it is compared."""
    dot = "." if entry.startswith(".") else ""
    return dot + domain_key(entry.removeprefix("."))


def contradiction(routes: Iterable[Route], *, forwards: bool) -> str | None:
    """Say what in a list of routes contradicts itself; `forwards` is the option forwardSMTP."""
    names: set[str] = set()
    by_domain: dict[str, str] = {}
    rest: str | None = None
    for route in routes:
        if route.name in names:
            return f"routes: two of them are named {route.name}"
        names.add(route.name)
        for domain in route.recipient_domains or ():
            other = by_domain.setdefault(domain, route.name)
            if other != route.name:
                return f"routes: {domain} is in recipientDomains of {other} and of {route.name}"
        if route.recipient_domains is not None:
            continue
        if rest is not None:
            return (
                f"routes: {rest} and {route.name} have no recipientDomains: only one route can "
                "take all other recipients"
            )
        rest = route.name
    if rest is not None and forwards:
        return (
            f"routes: {rest} has no recipientDomains and forwardSMTP is true: each would take all "
            "other recipients. Set forwardSMTP to false, or give the route recipientDomains"
        )
    return None
