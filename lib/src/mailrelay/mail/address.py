"""Envelope addresses: what MAIL FROM and RCPT TO may carry (RFC 5321 section 4.1.2, RFC 6531).

Strict on what could be misread further down (control characters, unbalanced quotes, spaces), as
lenient as the field on what is merely unusual (underscores in domains). A source route
(`<@a,@b:user@c>`) is parsed and dropped, as RFC 5321 appendix C asks.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum

MAX_LOCAL_PART_OCTETS = 64  # RFC 5321 section 4.5.3.1.1
MAX_DOMAIN_OCTETS = 255  # RFC 5321 section 4.5.3.1.2
MAX_PATH_OCTETS = 256  # RFC 5321 section 4.5.3.1.3, without the angle brackets

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED_STRING = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\u0080-\U0010ffff]|\\[\x20-\x7e])*"')
_LETTER = r"[A-Za-z0-9_\u0080-\U0010ffff]"
_LABEL = rf"{_LETTER}(?:[A-Za-z0-9_\-\u0080-\U0010ffff]{{0,61}}{_LETTER})?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_SOURCE_ROUTE = re.compile(r"@[^:<>\s]+:")
# The plain address nearly every envelope carries, decided by one match.
_PLAIN = re.compile(
    r"<([A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+)*)"
    r"@([A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?)*)>(?: (.*))?"
)


class AddressFault(Enum):
    """Why a path was not taken."""

    SYNTAX = "syntax"
    LOCAL_PART_TOO_LONG = "local part too long"
    DOMAIN_TOO_LONG = "domain too long"
    NEEDS_SMTPUTF8 = "needs SMTPUTF8"


class AddressError(ValueError):
    """A path that RFC 5321 does not allow; `fault` says which rule it broke."""

    def __init__(self, fault: AddressFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Path:
    """A reverse or forward path, and the text of the ESMTP parameters behind it."""

    address: str  # "" for the null reverse path `<>`
    parameters: str


def parse_path(text: str, *, smtputf8: bool) -> Path:
    """Take `<address> PARAM=…` apart.

    Raises AddressError when the path breaks RFC 5321, or carries non-ASCII text without SMTPUTF8.
    """
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        local, domain, parameters = plain.groups()
        _check_lengths(local, domain)
        return Path(f"{local}@{domain}", parameters or "")
    return _parse_unusual_path(text, smtputf8=smtputf8)


def same_mailbox(address: str) -> str:
    """Return the key under which two spellings are the same mailbox: only the domain folds."""
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.lower()}"


def domain_of(address: str) -> str:
    """Return the part behind the last `@`, or the empty string."""
    return address.rpartition("@")[2] if "@" in address else ""


def domain_key(domain: str) -> str:
    """Return the key under which two spellings are the same domain, A-labels and U-labels too.

    What is no name that IDNA knows (an address literal, an odd character) only folds its case.
    """
    if domain.isascii():
        return domain.lower()
    try:
        return domain.encode("idna").decode().lower()
    except UnicodeError:
        return domain.lower()


def is_domain(text: str) -> bool:
    """Tell whether `text` is a domain or an address literal, as a forward path has it."""
    if text.startswith("["):
        return text.endswith("]") and _is_address_literal(text)
    is_short = len(text.encode("utf-8", "surrogateescape")) <= MAX_DOMAIN_OCTETS
    return is_short and _DOMAIN.fullmatch(text) is not None


def _parse_unusual_path(text: str, *, smtputf8: bool) -> Path:
    if not text.startswith("<"):
        raise AddressError(AddressFault.SYNTAX)
    position = 1
    route = _SOURCE_ROUTE.match(text, position)
    if route is not None:
        position = route.end()
    if route is None and text.startswith(">", position):
        return Path("", _parameters(text, position + 1))
    pattern = _QUOTED_STRING if text.startswith('"', position) else _DOT_STRING
    local = pattern.match(text, position)
    if local is None:
        raise AddressError(AddressFault.SYNTAX)
    position = local.end()
    if text.startswith(">", position) and local.group().lower() == "postmaster":
        return Path(local.group(), _parameters(text, position + 1))  # RFC 5321 section 4.5.1
    if not text.startswith("@", position):
        raise AddressError(AddressFault.SYNTAX)
    domain, position = _domain(text, position + 1)
    if not text.startswith(">", position):
        raise AddressError(AddressFault.SYNTAX)
    _check_lengths(local.group(), domain)
    address = f"{local.group()}@{domain}"
    if not smtputf8 and not address.isascii():
        raise AddressError(AddressFault.NEEDS_SMTPUTF8)
    try:
        address.encode("utf-8")
    except UnicodeEncodeError:  # octets that were no UTF-8 arrive as lone surrogates
        raise AddressError(AddressFault.SYNTAX) from None
    return Path(address, _parameters(text, position + 1))


def _domain(text: str, position: int) -> tuple[str, int]:
    if text.startswith("[", position):
        end = text.find("]", position)
        literal = text[position : end + 1]
        if end < 0 or not _is_address_literal(literal):
            raise AddressError(AddressFault.SYNTAX)
        return literal, end + 1
    match = _DOMAIN.match(text, position)
    if match is None:
        raise AddressError(AddressFault.SYNTAX)
    return match.group(), match.end()


def _is_address_literal(literal: str) -> bool:
    inner = literal[1:-1]
    if "%" in inner:  # a scope id: not in RFC 5321, and Python takes any characters for one
        return False
    try:
        if inner[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(inner[5:])
        else:
            ipaddress.IPv4Address(inner)
    except ValueError:
        return False
    return True


def is_helo_name(text: str) -> bool:
    """Tell whether `text` is a domain or an address literal, as EHLO should carry."""
    if text.startswith("["):
        return text.endswith("]") and _is_address_literal(text)
    return len(text) <= MAX_DOMAIN_OCTETS and text.isascii() and _DOMAIN.fullmatch(text) is not None


def _parameters(text: str, position: int) -> str:
    rest = text[position:]
    if rest and not rest.startswith(" "):
        raise AddressError(AddressFault.SYNTAX)
    return rest.strip()


def _check_lengths(local: str, domain: str) -> None:
    if len(local.encode("utf-8", "surrogateescape")) > MAX_LOCAL_PART_OCTETS:
        raise AddressError(AddressFault.LOCAL_PART_TOO_LONG)
    domain_octets = len(domain.encode("utf-8", "surrogateescape"))
    if domain_octets > MAX_DOMAIN_OCTETS:
        raise AddressError(AddressFault.DOMAIN_TOO_LONG)
