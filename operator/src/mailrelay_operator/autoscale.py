"""How many senders there should be (pure): by the backlog that is ready, with hysteresis.

Ready is what a sender could take now: new jobs, deferred ones that are up within 30 s, and resends.
What is deferred for longer needs nobody yet. More senders come at once; fewer only when so many
were too many all through `scale_down_seconds`, so that a short lull ends no connection. A backlog
that cannot be read is no empty one: it never takes a sender away, and never leaves none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Policy:
    """What an administrator asked for."""

    least: int  # 0 or more; 0 lets the senders go while nothing is ready
    most: int
    ready_per_replica: int  # jobs that one sender may have before it. At least 1
    scale_down_seconds: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The backlog that is ready, in jobs."""

    new: int = 0
    soon: int = 0  # deferred and up within 30 s, and resends

    @property
    def jobs(self) -> int:
        """All of it."""
        return self.new + self.soon


@dataclass(frozen=True, slots=True)
class History:
    """What was wanted lately, as (time, replicas); only as far back as it matters."""

    since: float | None = None  # from when on it is whole; None: nothing was seen yet
    wanted: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """How many there should be, and what to remember for the next time."""

    replicas: int
    history: History


def decide(
    policy: Policy, ready: Ready | None, current: int, history: History, now: float
) -> Decision:
    """Decide from the ready backlog (None: unknown) and from how many senders are asked for now."""
    if ready is None:
        # Counts in the window as a need for all that there are: it is not known to be less.
        wanted = _within(policy, max(current, 1))
        seen = _remember(policy, history, wanted, now)
        # The bounds were changed by hand, not by the backlog: a new maximum holds at once.
        return Decision(max(1, wanted), seen)
    wanted = _within(policy, -(-ready.jobs // policy.ready_per_replica))
    seen = _remember(policy, history, wanted, now)
    if wanted >= current:
        return Decision(wanted, seen)
    if seen.since is None or now - seen.since < policy.scale_down_seconds:
        return Decision(_within(policy, current), seen)
    peak = max(replicas for _, replicas in seen.wanted)
    return Decision(_within(policy, min(current, peak)), seen)


def _within(policy: Policy, replicas: int) -> int:
    return min(max(replicas, policy.least), policy.most)


def _remember(policy: Policy, history: History, wanted: int, now: float) -> History:
    """Add what is wanted now, and forget what the window no longer sees.

    A run of the same number is kept as its last time only, so that the history stays short
    however often somebody looks.
    """
    start = now - policy.scale_down_seconds
    kept = [(at, replicas) for at, replicas in history.wanted if at > start]
    # What is smaller than a later number never is the peak.
    while kept and kept[-1][1] <= wanted:
        kept.pop()
    since = now if history.since is None else history.since
    return replace(history, since=since, wanted=(*kept, (now, wanted)))
