"""Tell and hear how the processes are: what each knows to be wrong, for as long as it is.

Not stored: a process says what is wrong now again and again, and what is not repeated is over. So a
listener that starts late learns it within seconds, and a process that died leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from enum import Enum

import msgspec
from nats.aio.msg import Msg

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError
from mailrelay.runtime.clock import Clock

REPEAT_SECONDS = 5.0
# Three tellings may be lost before what is wrong counts as over.
_KEPT_SECONDS = 3.5 * REPEAT_SECONDS
_MAX_REASON = 1000  # characters; an upstream's words are not ours to bound otherwise
_MAX_PROCESSES = 1000


class Kind(Enum):
    """What something is wrong with."""

    UPSTREAM = "upstream"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong, and since when (seconds since the epoch)."""

    kind: Kind
    reason: str
    since: float


class _State(msgspec.Struct, frozen=True):
    instance: str
    conditions: tuple[Condition, ...]


_decoder = msgspec.json.Decoder(_State)


class StateTeller:
    """One process's own word; run it beside the process's work."""

    def __init__(self, connection: QueueConnection, clock: Clock) -> None:
        self._connection = connection
        self._subject = connection.names.state_subject(connection.role)
        self._instance = secrets.token_hex(8)
        self._clock = clock
        self._conditions: dict[Kind, Condition] = {}
        self._changed = asyncio.Event()

    def tell(self, kind: Kind, reason: str) -> None:
        """Say what is wrong; an empty reason says that it is over. Since when stays the first."""
        known = self._conditions.get(kind)
        if not reason:
            self._conditions.pop(kind, None)
        elif known is None or known.reason != reason[:_MAX_REASON]:
            since = known.since if known else self._clock()
            self._conditions[kind] = Condition(kind, reason[:_MAX_REASON], since)
        else:
            return
        self._changed.set()

    async def run(self) -> None:
        """Tell each change at once and what is wrong again and again, until cancelled."""
        while True:
            if self._changed.is_set() or self._conditions:
                self._changed.clear()
                state = _State(self._instance, tuple(self._conditions.values()))
                with contextlib.suppress(QueueError):  # told again soon
                    await self._connection.publish_nowait(self._subject, msgspec.json.encode(state))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), REPEAT_SECONDS)


class StateListener:
    """What all processes say is wrong now."""

    def __init__(self, connection: QueueConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._heard: dict[str, tuple[float, tuple[Condition, ...]]] = {}

    async def start(self) -> None:
        """Listen from now on."""
        await self._connection.subscribe(self._connection.names.state_subject("*"), self._hear)

    def conditions(self) -> tuple[Condition, ...]:
        """Return what is wrong, once for each reason, with the earliest time; oldest first."""
        oldest = self._clock() - _KEPT_SECONDS
        self._heard = {who: told for who, told in self._heard.items() if told[0] >= oldest}
        found: dict[tuple[Kind, str], Condition] = {}
        for _, told in self._heard.values():
            for condition in told:
                key = (condition.kind, condition.reason)
                if key not in found or condition.since < found[key].since:
                    found[key] = condition
        return tuple(sorted(found.values(), key=lambda condition: condition.since))

    async def _hear(self, message: Msg) -> None:
        try:
            state = _decoder.decode(message.data)
        except msgspec.MsgspecError:
            return  # of another version: what it says is shown nowhere, and harms nothing
        self._heard.pop(state.instance, None)
        if state.conditions:
            self._heard[state.instance] = (self._clock(), state.conditions)
        if len(self._heard) > _MAX_PROCESSES:
            del self._heard[next(iter(self._heard))]
