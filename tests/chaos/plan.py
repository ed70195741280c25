"""What a seed says: which fault when, on which process, for how long. Pure.

Three tracks run side by side, so that several faults at once come by themselves: processes,
the upstream, and the disk under the queue. The first two begin with one of every kind they know,
in an order drawn by the seed, and go on with a weighted draw. A fault on a relay through which no
mail flows proves little, so most steps wait until mail flows again, however fast the machine is;
the others hit a relay that is still hurt. The same seed gives the same steps.
"""

from __future__ import annotations

import enum
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.sites import ONE_MACHINE, Site


class Kind(enum.StrEnum):
    """What is done to the relay or its surroundings."""

    KILL = "kill -9"
    KILL_TOGETHER = "kill -9 of several"
    FREEZE = "SIGSTOP"
    RESTART = "SIGTERM"
    RESTART_RELAY = "SIGTERM of the relay"
    UPSTREAM = "upstream"
    DISK_FULL = "disk full"
    RESEND = "resend of what failed"


@dataclass(frozen=True, slots=True)
class Fault:
    """One step of a track."""

    pause_seconds: float  # since the track's last step ended, or a freeze began
    waits: bool  # before the pause, until mail flows again
    kind: Kind
    targets: tuple[str, ...] = ()  # processes, or the upstream's trouble
    seconds: float = 0.0  # how long it lasts; 0: a moment

    @property
    def kills(self) -> int:
        """How many processes it ends by SIGKILL."""
        return len(self.targets) if self.kind in {Kind.KILL, Kind.KILL_TOGETHER} else 0

    @property
    def name(self) -> str:
        """The table's row."""
        if self.kind in {Kind.KILL, Kind.FREEZE, Kind.RESTART, Kind.UPSTREAM}:
            return f"{self.kind.value}: {', '.join(self.targets)}"
        return self.kind.value


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    processes: Iterator[Fault]
    upstream: Iterator[Fault]
    disk: Iterator[Fault]
    limit_seconds: float | None = None  # for tracks without an end


# What the upstream does to its clients; `tests.chaos.upstream` does it.
TROUBLES = (
    "refuses connections",
    "resets connections",
    "421 as greeting",
    "451 to EHLO",
    "silent after the greeting",
    "451 to MAIL",
    "resets after MAIL",
    "451 to half of RCPT",
    "451 to RCPT",
    "550 to a fifth of RCPT",
    "451 to DATA",
    "resets in the content",
    "451 after the final dot",
    "421 after the final dot",
    "closes, not having taken it",
    "closes, having taken it",
    "resets, having taken it",
    "no answer to the final dot",
)

_PAUSE_SECONDS = (0.0, 0.6)
_WAITS_CHANCE = 0.65
_FREEZE_SECONDS = (0.5, 2.5)
_LONG_FREEZE_SECONDS = (6.5, 8.0)  # longer than claims and attempts last
_LONG_FREEZE_CHANCE = 0.25
_TROUBLE_SECONDS = (0.5, 2.0)
_TROUBLE_PAUSE_SECONDS = (0.5, 2.5)
_DISK_SECONDS = (3.0, 7.0)
_DISK_PAUSE_SECONDS = (25.0, 60.0)
_FIRST_DISK_PAUSE_SECONDS = 12.0
_KIND_WEIGHTS = {
    Kind.KILL: 12,
    Kind.KILL_TOGETHER: 6,
    Kind.FREEZE: 1.5,
    Kind.RESTART: 3,
    Kind.RESTART_RELAY: 0.3,
    Kind.RESEND: 1,
}


def one_of_each(site: Site) -> tuple[tuple[Kind, tuple[str, ...]], ...]:
    """Return every kind of fault, once on every process."""
    return (
        *((Kind.KILL, (name,)) for name in site.processes),
        *((Kind.FREEZE, (name,)) for name in site.processes),
        *((Kind.RESTART, (name,)) for name in site.children),
        *((Kind.KILL_TOGETHER, names) for names in site.together),
        *(((Kind.RESTART_RELAY, ()),) if site.has_supervisor else ()),
        (Kind.RESEND, ()),
    )


def plan_for_seconds(seed: int, seconds: float, site: Site = ONE_MACHINE) -> Plan:
    """Make the plan for a time."""
    return _plan(seed, _process_faults(seed, site), seconds)


def plan_for_kills(seed: int, kills: int, site: Site = ONE_MACHINE) -> Plan:
    """Make the plan for a number of kills."""
    return _plan(seed, _until_kills(_process_faults(seed, site), kills), None)


def plan_for_one_of_each(seed: int, site: Site = ONE_MACHINE) -> Plan:
    """Make the short plan: one fault of every kind on every process that it knows."""
    return _plan(seed, itertools.islice(_process_faults(seed, site), len(one_of_each(site))), None)


def _plan(seed: int, processes: Iterator[Fault], limit_seconds: float | None) -> Plan:
    return Plan(seed, processes, _upstream_faults(seed), _disk_faults(seed), limit_seconds)


def _until_kills(faults: Iterator[Fault], kills: int) -> Iterator[Fault]:
    done = 0
    for fault in faults:
        if done >= kills:
            return
        done += fault.kills
        yield fault


def _draw(seed: int, track: str) -> random.Random:
    return random.Random(f"{seed}/{track}")  # noqa: S311 — a plan that can be repeated


def _process_faults(seed: int, site: Site) -> Iterator[Fault]:
    draw = _draw(seed, "processes")
    first = one_of_each(site)
    for kind, targets in draw.sample(first, len(first)):
        yield _process_fault(draw, kind, targets)
    kinds = [k for k in _KIND_WEIGHTS if site.has_supervisor or k is not Kind.RESTART_RELAY]
    while True:
        kind = draw.choices(kinds, [_KIND_WEIGHTS[each] for each in kinds])[0]
        yield _process_fault(draw, kind, _targets(draw, kind, site))


def _targets(draw: random.Random, kind: Kind, site: Site) -> tuple[str, ...]:
    if kind is Kind.KILL:
        return tuple(draw.choices(site.processes, tuple(site.kill_weights.values())))
    if kind is Kind.KILL_TOGETHER:
        return tuple(sorted(draw.sample(site.children, draw.randint(2, 4))))
    if kind is Kind.FREEZE:
        return (draw.choice(site.processes),)
    return (draw.choice(site.children),) if kind is Kind.RESTART else ()


def _process_fault(draw: random.Random, kind: Kind, targets: tuple[str, ...]) -> Fault:
    seconds = 0.0
    if kind is Kind.FREEZE:
        long = draw.random() < _LONG_FREEZE_CHANCE
        seconds = draw.uniform(*(_LONG_FREEZE_SECONDS if long else _FREEZE_SECONDS))
    waits = draw.random() < _WAITS_CHANCE
    return Fault(draw.uniform(*_PAUSE_SECONDS), waits, kind, targets, seconds)


def _upstream_faults(seed: int) -> Iterator[Fault]:
    draw = _draw(seed, "upstream")
    while True:
        for trouble in draw.sample(TROUBLES, len(TROUBLES)):
            yield Fault(
                draw.uniform(*_TROUBLE_PAUSE_SECONDS),
                False,  # noqa: FBT003
                Kind.UPSTREAM,
                (trouble,),
                draw.uniform(*_TROUBLE_SECONDS),
            )


def _disk_faults(seed: int) -> Iterator[Fault]:
    draw = _draw(seed, "disk")
    pause = _FIRST_DISK_PAUSE_SECONDS
    while True:
        yield Fault(pause, False, Kind.DISK_FULL, (), draw.uniform(*_DISK_SECONDS))  # noqa: FBT003
        pause = draw.uniform(*_DISK_PAUSE_SECONDS)
