"""The listening sockets, opened by the supervisor once.

They outlive the process that accepts on them: while an ingress is restarted, clients wait in the
backlog instead of being refused. Opened before anything is started, so that a port that is taken
is told at once and nothing stands half started.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from mailrelay.runtime.addresses import ListenAddress, listen_addresses, open_listener
from mailrelay_cli.errors import BadInputError

_BACKLOG = 1024
_POLL_SECONDS = 0.05
# Below Linux's ephemeral ports (32768 and up), so that no client socket takes one meanwhile.
_OWN_PORTS = range(24_000, 28_000)


@dataclass(frozen=True, slots=True)
class Listener:
    """What to listen on, and which options say so."""

    kind: str  # SMTP or HTTP
    host: str
    port: int
    host_key: str  # the options to change when it cannot be had
    port_key: str


def open_listeners(listener: Listener, patience_seconds: float = 0.0) -> list[socket.socket]:
    """Listen on each address of a host.

    `patience_seconds` is for a port whose last user was killed a moment ago. Raises BadInputError.
    """
    sockets: list[socket.socket] = []
    for wanted in _addresses(listener):
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                sockets.append(open_listener(wanted, listener.port, _BACKLOG))
                break
            except OSError as error:
                if wanted.may_lack(error):
                    break
                if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    for opened in sockets:
                        opened.close()
                    raise BadInputError(_fault(listener, wanted.address, error)) from error
                time.sleep(_POLL_SECONDS)
    return sockets


def claim_ports(count: int, stack: contextlib.ExitStack) -> list[int]:
    """Return TCP ports on 127.0.0.1 that nobody uses, and that no other relay claims meanwhile.

    They are opened by children, later and after each restart, so a probe proves little: until
    `stack` ends the relay holds the UDP ports of the same numbers, which it has no other use for.
    Raises BadInputError when there are not so many.
    """
    found: list[int] = []
    with contextlib.ExitStack() as claims:
        for port in random.sample(_OWN_PORTS, len(_OWN_PORTS)):
            claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                claim.bind(("127.0.0.1", port))
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
            claims.enter_context(claim)
            found.append(port)
            if len(found) == count:
                stack.push(claims.pop_all())
                return found
    raise BadInputError(
        f"no free port between {_OWN_PORTS.start} and {_OWN_PORTS.stop - 1} on 127.0.0.1"
    )


def shown(sockets: Iterable[socket.socket]) -> list[str]:
    """Return the addresses as people write them."""
    return [_shown(*each.getsockname()[:2]) for each in sockets]


def _addresses(listener: Listener) -> tuple[ListenAddress, ...]:
    try:
        return listen_addresses(listener.host)
    except (OSError, UnicodeError) as error:
        raise BadInputError(
            f"{listener.host_key}: {listener.host!r} has no address: {error}"
        ) from error


def _fault(listener: Listener, address: str, error: OSError) -> str:
    where = f"port {_shown(address, listener.port)} ({listener.kind})"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken: stop what uses it or set {listener.port_key}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{where} is not permitted to this user: set {listener.port_key} to 1024 or more"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: {address} is no address of this machine: set {listener.host_key}"
    return f"{where} cannot be opened: {error.strerror}"


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
