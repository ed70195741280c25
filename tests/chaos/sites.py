"""Where a relay runs in a random run: which processes there are, and how often each is killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SERVICES = ("ingress", "sender", "monitor")
SERVERS = ("n1", "n2", "n3")
SUPERVISOR = "supervisor"


@dataclass(frozen=True, slots=True)
class Site:
    """A relay's processes."""

    name: str
    kill_weights: Mapping[str, float]
    together: tuple[tuple[str, ...], ...]  # what is killed together at the start of each run

    @property
    def processes(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.kill_weights)

    @property
    def children(self) -> tuple[str, ...]:
        """The processes that somebody starts again."""
        return tuple(name for name in self.kill_weights if name != SUPERVISOR)

    @property
    def has_supervisor(self) -> bool:
        """Whether it can be stopped and started as a whole."""
        return SUPERVISOR in self.kill_weights


ONE_MACHINE = Site(
    "one machine",
    # A supervisor takes everything with it and seconds to come back: seldom, or nothing else is
    # tried.
    {"ingress": 5, "sender": 6, "monitor": 3, "nats": 5, SUPERVISOR: 1},
    together=(("nats", "sender"),),
)
THREE_SERVERS = Site(
    "three servers",
    {"ingress": 3, "sender": 5, "monitor": 2, "n1": 3, "n2": 3, "n3": 3},
    together=(("n1", "n2"), ("n2", "sender"), SERVERS),
)


def is_server(name: str) -> bool:
    """Whether a process is a nats-server."""
    return name == "nats" or name in SERVERS
