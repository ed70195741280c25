"""What an upstream offers at EHLO, and which MAIL and RCPT parameters follow from it.

A parameter that was not offered is refused with 555 (RFC 5321 §4.1.1.11), so
that a client which does not look at the EHLO answer is found out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.replies import Reply

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

# A quoted local part may hold ">" and spaces (RFC 5321 §4.1.2); a source route goes
# before the mailbox and is to be ignored (§4.1.1.3, appendix C).
_PATH = re.compile(
    rb'^(?:FROM|TO):(?P<gap> *)<(?:@[^:<>]+:)?(?P<address>(?:"(?:[^"\\]|\\.)*"|[^"<>\s])*)>'
    rb"(?: +(?P<params>.*?))? *$",
    re.IGNORECASE,
)

NOT_RECOGNISED = Reply(555, "5.5.4 Parameter not offered")


@dataclass(frozen=True, slots=True)
class Extensions:
    """The keywords of the EHLO answer; each can be taken away."""

    pipelining: bool = True  # RFC 2920
    size: int | None = 64 * 1024 * 1024  # octets, RFC 1870; None: not offered, no limit
    eight_bit_mime: bool = True  # RFC 6152
    smtputf8: bool = True  # RFC 6531
    enhanced_status_codes: bool = True  # RFC 2034; the texts carry them in any case
    dsn: bool = False  # RFC 3461
    starttls: ssl.SSLContext | None = None  # offered when there is a context
    implicit_tls: bool = False  # TLS from the first octet with that context (RFC 8314)
    tls_required: bool = False  # MAIL without TLS gets 530 5.7.0 (RFC 3207 §4)
    auth: tuple[str, ...] = ()  # of PLAIN and LOGIN
    auth_only_with_tls: bool = False
    auth_required: bool = False  # MAIL without AUTH gets 530 5.7.0 (RFC 4954 §6)
    credentials: Mapping[str, str] | None = field(default=None)  # None: any will do

    def keywords(self, *, tls: bool, authenticated: bool) -> list[str]:
        """List the lines of the EHLO answer after the greeting."""
        lines = []
        if self.pipelining:
            lines.append("PIPELINING")
        if self.size is not None:
            lines.append(f"SIZE {self.size}")
        if self.eight_bit_mime:
            lines.append("8BITMIME")
        if self.smtputf8:
            lines.append("SMTPUTF8")
        if self.enhanced_status_codes:
            lines.append("ENHANCEDSTATUSCODES")
        if self.dsn:
            lines.append("DSN")
        if self.starttls is not None and not tls:
            lines.append("STARTTLS")
        if self.offers_auth(tls=tls) and not authenticated:
            lines.append("AUTH " + " ".join(self.auth))
        return lines

    def offers_auth(self, *, tls: bool) -> bool:
        """Whether AUTH may be used in the state of this session."""
        return bool(self.auth) and (tls or not self.auth_only_with_tls)

    def check_mail(self, address: str, params: tuple[str, ...]) -> Reply | None:
        """Say what is wrong with MAIL, or None."""
        smtputf8 = False
        for param in params:
            name, _, value = param.upper().partition("=")
            if name == "SIZE" and self.size is not None and value.isdigit():
                if int(value) > self.size:
                    return Reply(552, "5.3.4 Message too big")  # RFC 1870 §6.1
            elif name == "SMTPUTF8" and self.smtputf8 and not value:
                smtputf8 = True
            elif not (
                (name == "BODY" and value in {"7BIT", "8BITMIME"} and self.eight_bit_mime)
                or (name in {"RET", "ENVID"} and value and self.dsn)
                or (name == "AUTH" and value and self.auth)
            ):
                return NOT_RECOGNISED
        if not address.isascii() and not smtputf8:
            return Reply(553, "5.6.7 SMTPUTF8 needed")  # RFC 6531 §3.5
        return None

    def check_rcpt(self, params: tuple[str, ...]) -> Reply | None:
        """Say what is wrong with the parameters of RCPT, or None."""
        for param in params:
            name, _, value = param.upper().partition("=")
            if not (name in {"NOTIFY", "ORCPT"} and value and self.dsn):
                return NOT_RECOGNISED
        return None


def parse_path(argument: bytes) -> tuple[str, tuple[str, ...], bool] | None:
    """Read `FROM:<address> params` into address, params and whether a space was in the way."""
    match = _PATH.match(argument)
    if match is None:
        return None
    gap, address, params = match.group("gap", "address", "params")
    return (
        address.decode("utf-8", "surrogateescape"),
        tuple(params.decode("utf-8", "surrogateescape").split()) if params else (),
        bool(gap),
    )
