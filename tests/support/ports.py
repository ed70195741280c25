"""Ports of loopback for servers under test, from many test processes at once."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections import deque

# Away from those of outgoing connections (32768 and up) and of a relay's own (24000 to 27999).
_FIRST, _COUNT = 16_000, 8_000
_TRIES = 2_000
_KEPT = 400  # more than any test asks for; four processes leave most ports free

# A server opens its port some time after a test has asked for it, and a killed one leaves it for a
# while. Who was given a port holds the UDP port of that number meanwhile, which no server here
# wants: to the other test processes it is taken.
_claims: deque[socket.socket] = deque()


def free_port() -> int:
    """Return a TCP port that nobody has on either loopback, and that nobody else is given."""
    # Not `random`: each test, in each process, begins with the same seed.
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_COUNT)
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            _see_unused(port)
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        if len(_claims) > _KEPT:
            _claims.popleft().close()
        return port
    raise AssertionError(f"no free port between {_FIRST} and {_FIRST + _COUNT - 1}")


def _see_unused(port: int) -> None:
    with socket.socket() as four:
        four.bind(("127.0.0.1", port))
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as six:
        six.bind(("::1", port))
