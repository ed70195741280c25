"""Claim records, hold them while they are worked on, settle them.

One pull loop of our own in place of the client's `fetch`, which stalled and swallowed records
(measured; nats.py #986). A pull asks only for what there is room for, expires after 10 s, and is
given up after 2.2 missed heartbeats, so that a lost answer costs seconds and no record.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.epoch import Epoch
from mailrelay.queue.errors import (
    ClaimVoidError,
    QueueError,
    QueueRefusedError,
    QueueUnavailableError,
)
from mailrelay.queue.leader import stream_info
from mailrelay.runtime.steps import passed

HOLDS_PER_ACK_WAIT = 3  # two may be lost before another process gets the record
_EXPIRES_SECONDS = 10.0
_HEARTBEAT_SECONDS = 2.0
_SILENCE_SECONDS = 2.2 * _HEARTBEAT_SECONDS
_RETRY_SECONDS = 0.25
_PULSES_PER_ACK_WAIT = 8
_ACK_TIMEOUT_SECONDS = 2.0
_HEARTBEAT = "100"
_NOT_FOUND = 10037


class Claim:
    """A record that is ours until it is settled, or until it is not held for `ack_wait`.

    Whatever is said of it raises ClaimVoidError once the server lost it.
    """

    __slots__ = (
        "_ack_wait_seconds",
        "_connection",
        "_created",
        "_epoch",
        "_generation",
        "_held_at",
        "_reply",
        "consumer",
        "delivered",
        "payload",
        "sequence",
        "stored_at",
        "stream",
        "subject",
    )

    def __init__(
        self,
        connection: QueueConnection,
        message: Msg,
        epoch: Epoch,
        created: str,
        ack_wait_seconds: float,
        *,
        given_at: float,
    ) -> None:
        """`given_at`: the server gave us the record no earlier, by the loop's clock."""
        metadata = message.metadata
        self._connection = connection
        self._epoch = epoch
        self._created = created
        self._ack_wait_seconds = ack_wait_seconds
        self._generation = connection.generation
        self._held_at = given_at
        self._reply = message.reply
        self.payload = message.data
        self.subject: str = message.subject
        self.stream: str = metadata.stream
        self.consumer: str = metadata.consumer
        self.sequence: int = metadata.sequence.stream
        self.delivered: int = metadata.num_delivered
        self.stored_at: float = metadata.timestamp.timestamp()

    @property
    def key(self) -> tuple[str, int]:
        """What names the record for as long as its stream lives."""
        return self.stream, self.sequence

    @property
    def is_surely_ours(self) -> bool:
        """Whether nobody else can have been given the record meanwhile.

        It may have been when it was not held for `ack_wait` (this process was stopped), or when the
        connection broke: a killed server may have forgotten that it gave it to us. Once it may have
        been, it stays so: a hold brings nothing back.

        Who held the record before may ack it all the same: `is_still_there` tells that.
        """
        age = asyncio.get_running_loop().time() - self._held_at
        return self._generation == self._connection.generation and age < self._ack_wait_seconds

    async def is_still_there(self) -> bool:
        """Tell whether the record is still in its stream, asked of the stream's leader.

        Raises ClaimVoidError, QueueError.
        """
        await self._check()
        try:
            await self._connection.api(f"STREAM.MSG.GET.{self.stream}", {"seq": self.sequence})
        except QueueRefusedError as error:
            if error.err_code != _NOT_FOUND:
                raise
        else:
            return True
        # A server that leads no more may never have had it: then nothing is known.
        info = await stream_info(self._connection, self.stream)
        if int(info["state"]["last_seq"]) < self.sequence:
            msg = f"{self.stream}: whoever answered has not heard of record {self.sequence} yet"
            raise QueueUnavailableError(msg)
        return False

    async def hold(self) -> None:
        """Keep the claim for another `ack_wait`. Raises QueueError.

        One that was not held in time stays doubtful: the server takes the hold, and may have given
        the record to another sender before.
        """
        await self._check()
        now = asyncio.get_running_loop().time()  # before it is sent: the server's time runs later
        was_ours = self.is_surely_ours
        await self._connection.publish_nowait(self._reply, b"+WPI")
        if was_ours:
            self._held_at = now

    async def ack(self) -> None:
        """Remove the record; returns once the server has confirmed it.

        Raises QueueUnavailableError with the outcome unknown; acking again is harmless.
        """
        await self._check()
        await self._connection.request(
            self._reply, b"+ACK", timeout_seconds=_ACK_TIMEOUT_SECONDS, on_sent=_ack_sent
        )

    async def give_back(self, delay_seconds: float = 0.0) -> None:
        """Have the record delivered again, after a delay. Raises QueueError."""
        await self._check()
        if delay_seconds <= 0:
            order = b"-NAK"
        else:
            order = b"-NAK " + msgspec.json.encode({"delay": int(delay_seconds * 1e9)})
        await self._connection.publish_nowait(self._reply, order)
        passed("claim.given_back_sent")

    async def _check(self) -> None:
        if await self._epoch.current() != self._created:
            msg = f"{self.stream} was made anew since its record {self.sequence} was claimed"
            raise ClaimVoidError(msg)


def _ack_sent() -> None:
    passed("claim.ack_sent")


class PullLoop:
    """Keeps one pull open on one consumer, for as many records as there is room for."""

    def __init__(
        self,
        connection: QueueConnection,
        stream: str,
        consumer: str,
        *,
        room: Callable[[], int],
        take: Callable[[Claim], Awaitable[None]],
        ack_wait_seconds: float = 30.0,
    ) -> None:
        """`room` says how many more records may come now; `take` gets each of them."""
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._epoch = Epoch.of_consumer(connection, stream, consumer)
        self._created = ""  # of the consumer that the subscription is for
        self._inbox = ""
        self._ack_wait_seconds = ack_wait_seconds
        self._room = room
        self._take = take
        self._wake = asyncio.Event()
        self._open = 0  # records that the pull under way may still bring
        self._token = ""
        self._heard_at = 0.0
        self._paused_until = 0.0
        self._subscription: Subscription | None = None
        self._pulses = (0.0, 0.0)  # the last two times that the event loop turned
        self._next_pulse: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Look again: there is room now, or the connection is back."""
        self._wake.set()

    def pause(self, seconds: float) -> None:
        """Do not pull for a while: the consumer's head is known not to be due."""
        self._paused_until = asyncio.get_running_loop().time() + seconds

    async def stop(self) -> None:
        """Withdraw the pull; records on their way are still handed on before this returns.

        Without it a record that is given back would come to our own open pull again.
        """
        self._room = lambda: 0
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await asyncio.wait_for(self._drain(), _ACK_TIMEOUT_SECONDS)

    async def _drain(self) -> None:
        assert self._subscription is not None  # noqa: S101 — the caller looked
        await self._subscription.drain()  # type: ignore[no-untyped-call]

    async def run(self) -> None:
        """Pull until cancelled."""
        self._connection.on_reconnect(self._lost)
        loop = asyncio.get_running_loop()
        self._pulses = (loop.time(), loop.time())
        self._pulse()
        try:
            await self._pull_for_ever(loop)
        finally:
            if self._next_pulse is not None:
                self._next_pulse.cancel()

    def _pulse(self) -> None:
        """Note that this process runs.

        A record may have come while it was stopped, long before it is read: no earlier than the
        pulse before the last, for what came before that is read by now.
        """
        loop = asyncio.get_running_loop()
        self._pulses = (self._pulses[1], loop.time())
        pause = self._ack_wait_seconds / _PULSES_PER_ACK_WAIT
        self._next_pulse = loop.call_later(pause, self._pulse)

    async def _pull_for_ever(self, loop: asyncio.AbstractEventLoop) -> None:
        number = 0
        while True:
            self._wake.clear()
            pause = self._paused_until - loop.time()
            room = self._room()
            if pause > 0 or room <= 0:
                await self._wait(pause if pause > 0 else None)
                continue
            if self._open == 0:
                number += 1
                self._token = str(number)
                await self._pull(room)
            await self._wait(self._heard_at + _SILENCE_SECONDS - loop.time())
            if self._open and loop.time() - self._heard_at >= _SILENCE_SECONDS:
                self._open = 0

    async def _pull(self, batch: int) -> None:
        try:
            await self._follow(await self._epoch.current())
        except QueueError:
            self.pause(_RETRY_SECONDS)
            return
        self._open = batch
        self._heard_at = asyncio.get_running_loop().time()
        request = {
            "batch": batch,
            "expires": int(_EXPIRES_SECONDS * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * 1e9),
        }
        try:
            await self._connection.publish_nowait(
                self._subject, msgspec.json.encode(request), reply=f"{self._inbox}.{self._token}"
            )
        except QueueUnavailableError:
            self._open = 0
            self.pause(_RETRY_SECONDS)

    async def _follow(self, created: str) -> None:
        """Hear a consumer that was made anew by a subscription of its own.

        What the client still holds of the old one's records keeps its old claim, and is void.
        """
        if created == self._created:
            return
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        self._inbox = self._connection.new_inbox()

        async def receive(message: Msg) -> None:
            await self._receive(message, created)

        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", receive)
        self._created = created

    async def _wait(self, seconds: float | None) -> None:
        # No wait_for: on Python 3.11 it swallows a cancellation that meets a wake.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _receive(self, message: Msg, created: str) -> None:
        if message.reply:  # a record: it comes under its own subject, its reply is how to ack it
            self._heard_at = asyncio.get_running_loop().time()
            self._open = max(0, self._open - 1)
            claim = Claim(
                self._connection,
                message,
                self._epoch,
                created,
                self._ack_wait_seconds,
                given_at=self._pulses[0],
            )
            await self._take(claim)
        elif message.subject.rpartition(".")[2] == self._token:  # else of a pull given up before
            self._heard_at = asyncio.get_running_loop().time()
            self._hear_status((message.headers or {}).get("Status", ""))
        if self._open == 0:
            self._wake.set()

    def _hear_status(self, status: str) -> None:
        if status == _HEARTBEAT:
            return
        self._open = 0
        if status not in {"404", "408"}:  # leadership change, no responders: not at once
            self.pause(_RETRY_SECONDS)

    def _lost(self) -> None:
        """A pull does not survive its connection."""
        self._open = 0
        self._wake.set()
