"""Where mail goes: routes and their smart hosts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailrelay_operator.resource.schema import (
    ListType,
    ObjectName,
    Port,
    Rule,
    Section,
    Shape,
)

MAX_ROUTES = 100
MAX_DOMAINS = 200  # of one route; 20,000 in all: the API server reckons what rules over them cost
MAX_SMART_HOSTS = 8  # of one route
TAKEN_NAMES = ["capture", "named", "smarthost"]
_PORT = 587  # message submission (RFC 6409)
_IMPLICIT_PORT = 465  # the same with TLS from the first octet (RFC 8314 section 3.3)

RouteName = Annotated[
    str,
    Field(min_length=1, max_length=40),
    Shape(
        r"^[a-z][a-z0-9-]{0,39}$",
        "must be at most 40 characters of a-z, 0-9 and -, the first one a letter",
    ),
    Rule(
        f"!(self in {TAKEN_NAMES})",
        f"must be another name than {', '.join(TAKEN_NAMES)}: metrics mean something else by those",
    ),
]
# A leading dot means the domains below. Lower case, so that the same one is not there twice.
# What is wrong with its parts, the relay says: a longer pattern would cost too much here.
RecipientDomain = Annotated[
    str,
    Field(min_length=1, max_length=254),
    Shape(
        r"^[.a-z0-9-]+$",
        "must be a domain in lower case: example.org, or .example.org for all domains below it",
    ),
]
# A name, or an address of IPv4 or IPv6.
Host = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Shape(
        r"^[A-Za-z0-9._:-]+$",
        "must be a host name or an address; its port has a field of its own",
    ),
    Rule(
        "self.indexOf(':') == self.lastIndexOf(':') ? !self.contains(':') : isIP(self)",
        "must be a host name or an address, without a port: that has a field of its own",
    ),
]


class SmartHost(Section):
    """A server that takes mail."""

    RULES = (
        Rule(
            "!has(self.caSecretName) || self.verifyTLS",
            "caSecretName says what a certificate is checked by, and verifyTLS false checks "
            "nothing: leave one of them out",
            field=".caSecretName",
            reason="FieldValueForbidden",
        ),
    )

    host: Host = Field(description="Its name or address.")
    port: Port | None = Field(
        default=None, description="Its port; not set: 587, or 465 when tls is Implicit."
    )
    tls: Literal["StartTLS", "Implicit", "Opportunistic"] = Field(
        default="StartTLS",
        description="StartTLS: it must offer STARTTLS. Implicit: TLS from the first octet. "
        "Opportunistic: STARTTLS when it is offered, in the clear otherwise; a password is never "
        "sent in the clear.",
    )
    verify_tls: bool = Field(
        default=True, description="Whether its certificate must be valid for its name."
    )
    ca_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with the key `ca.crt`: authorities (PEM) to trust instead of the "
        "system's.",
    )
    credentials_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with the keys `username` and `password` for SMTP AUTH at this host.",
    )

    @property
    def port_or_default(self) -> int:
        """The port, which by default depends on `tls`."""
        return self.port or (_IMPLICIT_PORT if self.tls == "Implicit" else _PORT)


class Route(Section):
    """Which mail goes to which smart hosts."""

    name: RouteName = Field(description="Its name in logs and metrics; no two routes have one.")
    recipient_domains: Annotated[
        tuple[RecipientDomain, ...], Field(max_length=MAX_DOMAINS), ListType("set")
    ] = Field(
        default=(),
        description="Domains of the recipients that take this route, in lower case: `example.org`, "
        "or `.example.org` for all domains below it. The most specific one wins, whatever the "
        "routes' order. None: all recipients that no other route takes.",
    )
    smart_hosts: Annotated[
        tuple[SmartHost, ...],
        Field(min_length=1, max_length=MAX_SMART_HOSTS),
        ListType("atomic"),
    ] = Field(
        description="Servers that take the mail, the first one first: the next is tried in the "
        "same attempt when one fails at connection, TLS or AUTH."
    )

    @property
    def is_default(self) -> bool:
        """Whether it takes what no other route does."""
        return not self.recipient_domains
