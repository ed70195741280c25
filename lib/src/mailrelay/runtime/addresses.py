"""What a process listens on: `localhost` and `*` are both families, anything else is what it says.

Where a machine has no IPv6, those two are IPv4 alone: `optional` says that it may be left out.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Final

EVERY: Final = "*"  # every address of both families
_BOTH: Final = {"localhost": ("127.0.0.1", "::1"), EVERY: ("0.0.0.0", "::")}  # noqa: S104 — who asks for it has said so
_NO_SUCH_FAMILY: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One address of this machine, of one family."""

    family: socket.AddressFamily
    address: str
    optional: bool = False

    def may_lack(self, error: OSError) -> bool:
        """Tell whether this is what a machine without IPv6 says, and may be left out."""
        return self.optional and error.errno in _NO_SUCH_FAMILY


def listen_addresses(host: str) -> tuple[ListenAddress, ...]:
    """Return the addresses that a host means, each once. Raises OSError, UnicodeError."""
    if host in _BOTH:
        four, six = _BOTH[host]
        return (
            ListenAddress(socket.AF_INET, four),
            ListenAddress(socket.AF_INET6, six, optional=True),
        )
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return tuple(
        dict.fromkeys(ListenAddress(family, str(address[0])) for family, _, _, _, address in found)
    )


def open_listener(wanted: ListenAddress, port: int, backlog: int) -> socket.socket:
    """Listen there, and in that family only. Raises OSError."""
    opened = socket.socket(wanted.family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if wanted.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((wanted.address, port))
        opened.listen(backlog)
    except BaseException:
        opened.close()
        raise
    return opened


def open_listeners(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen on every address that a host means. Raises OSError, UnicodeError."""
    opened: list[socket.socket] = []
    try:
        for wanted in listen_addresses(host):
            try:
                opened.append(open_listener(wanted, port, backlog))
            except OSError as error:
                if not wanted.may_lack(error):
                    raise
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened
