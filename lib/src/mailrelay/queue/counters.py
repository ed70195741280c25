"""Count at NATS, exactly, from any number of processes (docs/decisions/0018).

A counter is a record that the server adds to (`Nats-Incr`); its answer is the new total, so that
an addition is one round trip and two processes never read the same total. Each addition has an id:
one whose answer was lost is repeated and found to be done, never done twice. Who holds tokens that
it does not use is asked for them on a subject of its own, which no stream keeps.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote

import msgspec
from nats.aio.msg import Msg

from mailrelay.mail.limit import EVERYBODY, CounterName, Scope, Window, sender_key
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.events import BatchReader, StoredMessage
from mailrelay.queue.publish import Publisher, Record

# The stream keeps a counter for longer than its window lasts: a message may have come in its last
# second, and a process's clock may be wrong.
KEPT_SECONDS = {Window.HOUR: 3 * 3600, Window.DAY: 49 * 3600}
# The server knows an addition's id again after its restart only where the addition still stands. Of
# those that were done and not answered when it was killed there is one or none for each ingress
# process; without their ids a repeat counts them twice, and those tokens are nobody's.
ADDITIONS_KEPT = 8
_ADDRESS = "Mailrelay-Sender"  # the key cannot be turned back into an address
_PAGE = 512
_READ_SECONDS = 2.0
_PAUSE_SECONDS = 0.1
_NOTHING_THERE = "404"


class _Total(msgspec.Struct):
    val: str = "0"


_total = msgspec.json.Decoder(_Total)


@dataclass(frozen=True, slots=True)
class CounterUse:
    """A counter as it stands: spent tokens, and those that some process has leased."""

    name: CounterName
    total: int


@dataclass(frozen=True, slots=True)
class Addition:
    """Tokens to lease, or with a negative amount to give back; done once, however often tried."""

    name: CounterName
    amount: int
    id: str


class CounterStore:
    """The counters, over one connection."""

    def __init__(self, connection: QueueConnection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = connection.names
        self._instance = secrets.token_hex(8)
        self._additions = itertools.count(1)

    @property
    def is_reachable(self) -> bool:
        """Whether asking makes sense now."""
        return self._connection.is_connected

    def addition(self, name: CounterName, amount: int) -> Addition:
        """Return an addition to be done, of an id of its own."""
        return Addition(name, amount, f"{self._instance}/{next(self._additions)}")

    async def add(self, addition: Addition, *, deadline_seconds: float) -> int | None:
        """Do an addition; return the new total, or None when an earlier try had done it.

        Raises QueueUnavailableError when the deadline passed and it may or may not be done,
        QueueRefusedError when it is not.
        """
        name = addition.name
        headers = {"Nats-Incr": f"{addition.amount:+d}"}
        if name.address:
            headers[_ADDRESS] = quote(name.address, safe="@")
        record = Record(self.subject(name), b"", addition.id, headers)
        stored = await self._publisher.store(record, deadline_seconds=deadline_seconds)
        return None if stored.duplicate else stored.total

    async def total(self, name: CounterName, *, deadline_seconds: float) -> int:
        """Return a counter's total without adding; nothing is written.

        Raises QueueUnavailableError when nobody answered until the deadline.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_seconds
        while True:
            try:
                return await self._total(name)
            except QueueUnavailableError:
                if loop.time() + _PAUSE_SECONDS >= ends_at:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _total(self, name: CounterName) -> int:
        stream = self._names.limit_stream(name.window)
        answer = await self._connection.request(
            f"$JS.API.DIRECT.GET.{stream}.{self.subject(name)}", timeout_seconds=_READ_SECONDS
        )
        status = (answer.headers or {}).get("Status")
        if status == _NOTHING_THERE:
            return 0
        if status is not None:
            msg = f"{stream} answers {status}"
            raise QueueUnavailableError(msg)
        return _read_total(answer.data)

    async def walk(self, window: Window, number: int) -> AsyncGenerator[CounterUse, None]:
        """Yield the counters of one window, the least recently changed first, in pages.

        A counter comes again for each of its last `ADDITIONS_KEPT` additions: its last total is
        the one that holds. Raises QueueUnavailableError.
        """
        prefix = f"{self._names.limit_subject(window, number)}."
        reader = BatchReader(self._connection, self._names.limit_stream(window), f"{prefix}>")
        after = 0
        while page := await reader.read(after + 1, _PAGE):
            for message in page:
                after = message.sequence
                yield _counter_use(message, window, number, message.subject.removeprefix(prefix))

    def subject(self, name: CounterName) -> str:
        """Return where a counter stands."""
        return f"{self._names.limit_subject(name.window, name.number)}.{name.key}"

    # Recalls.
    async def recall(self, subject: str) -> None:
        """Ask every process for the unused tokens of a counter. Raises QueueError."""
        await self._connection.publish_nowait(self._names.recall_subject, subject.encode())

    async def hear_recalls(self, callback: Callable[[str], Awaitable[None]]) -> None:
        """Have `callback` called with the subject of each counter that is recalled."""

        async def hear(message: Msg) -> None:
            await callback(message.data.decode("ascii", "replace"))

        await self._connection.subscribe(self._names.recall_subject, hear)


def _counter_use(message: StoredMessage, window: Window, number: int, key: str) -> CounterUse:
    scope = Scope.GLOBAL if key == EVERYBODY else Scope.SENDER
    address = unquote(message.headers.get(_ADDRESS, ""))
    if scope is Scope.SENDER and sender_key(address) != key:  # never written by this version
        address = f"?{key}"
    return CounterUse(CounterName(scope, window, number, address), _read_total(message.payload))


def _read_total(payload: bytes) -> int:
    try:
        return int(_total.decode(payload).val)
    except (msgspec.DecodeError, ValueError) as error:
        msg = f"unreadable counter {payload[:80]!r}"
        raise QueueUnavailableError(msg) from error
