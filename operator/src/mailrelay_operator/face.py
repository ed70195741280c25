"""Whether the operator is well (pure): what its /healthz and /readyz say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# A pass is given up after 120 s; one that is older is stuck beyond that.
STUCK_SECONDS: Final = 180.0
# A watch hears a bookmark each minute, or that there is no connection, or it reads its list again.
SILENT_SECONDS: Final = 240.0
# Due and not begun: with workers that work, however many relays there are.
STARVED_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """What was seen just now."""

    leads: bool = False
    longest_work_seconds: float = 0.0
    longest_wait_seconds: float = 0.0
    silent_seconds: tuple[tuple[str, float], ...] = ()  # by kind: since a watch heard anything
    # A relay of which a list told and kopf's watch does not, and for how many seconds.
    untold: tuple[tuple[str, str], float] | None = None


def unhealthy_reason(pulse: Pulse) -> str:
    """Say why this process should be started again; empty when it should not."""
    if pulse.longest_work_seconds > STUCK_SECONDS:
        return f"a pass over a relay takes {pulse.longest_work_seconds:.0f} s"
    if pulse.leads and pulse.longest_wait_seconds > STARVED_SECONDS:
        return f"a relay waits {pulse.longest_wait_seconds:.0f} s for its pass"
    for kind, seconds in pulse.silent_seconds:
        if seconds > SILENT_SECONDS:
            return f"the watch of {kind} is silent for {seconds:.0f} s"
    if pulse.untold is not None:
        key, seconds = pulse.untold
        return f"the watch of MailRelay says nothing of {'/'.join(key)} for {seconds:.0f} s"
    return ""


def unready_reason(awaited: Iterable[str], lease_fault: str = "") -> str:
    """Say what is not known yet, or why no replica can act; empty when all is well.

    A restart would mend neither, so it makes no process unhealthy.
    """
    if kinds := sorted(awaited):
        return f"not listed yet: {', '.join(kinds)}"
    return f"the Lease cannot be had: {lease_fault}" if lease_fault else ""
