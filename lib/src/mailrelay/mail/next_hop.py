"""A next hop as people write it: `host:port`, `[address]:port`, or a host alone."""

from __future__ import annotations

import ipaddress
import re

DEFAULT_PORT = 25  # RFC 5321 section 4.5.4.2
_MAX_PORT = 65535
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_MAX_NAME = 253


def parse_next_hop(text: str) -> tuple[str, int]:
    """Return host and port; the port is 25 when none is given. Raises ValueError."""
    host, port = text.strip(), ""
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(_words(text))
        port = rest[1:]
        if rest == ":" or not _is_address(host, 6):
            raise ValueError(_words(text))
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
        if not port:
            raise ValueError(_words(text))
    if not is_host(host):
        raise ValueError(_words(text))
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= _MAX_PORT):
        raise ValueError(_words(text))
    return host, int(port or DEFAULT_PORT)


def format_next_hop(host: str, port: int) -> str:
    """Return `host:port`, as `parse_next_hop` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_host(text: str) -> bool:
    """Tell whether `text` is a host name or an IPv4 or IPv6 address (without brackets)."""
    return _is_address(text, 4) or _is_address(text, 6) or _is_name(text)


def _words(text: str) -> str:
    return f"{text!r} is no next hop: host:port with a name or address and a port of 1 to 65535"


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    is_number = labels[-1].isdigit()  # a mistyped address is no name
    return len(text) <= _MAX_NAME and not is_number and all(map(_LABEL.fullmatch, labels))
