"""One role's connection to NATS, and the JetStream API over it.

The connection comes back by itself for ever. While it is away every request fails at once
(`pending_size=-1`): with a buffer, publishes made meanwhile were reported as time-outs and stored
later. A denied request looks like a time-out, so the server's own word on it is logged loudly.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mailrelay.queue.errors import QueueError, QueueUnavailableError, refusal
from mailrelay.queue.names import Names
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger

API_TIMEOUT_SECONDS = 3.0
_MAX_OUTSTANDING_PINGS = 2
_CLOSE_SECONDS = 2
_NO_RESPONDERS = "503"
_TOLD_SECONDS = 10.0
_CLIENT_TASKS = ("_reconnection_task", "_reading_task", "_ping_interval_task", "_flusher_task")


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Where NATS is and who we are there. The seed itself stays in its file."""

    url: str  # of a cluster several, with commas between them
    role: str  # ingress, sender, monitor or admin
    seed_file: Path | None  # an NKey seed; None only for a server without authorization
    prefix: str = "mailrelay"


class _Client(Client):
    """nats-py's client, which stops reading for good when a flush was given up.

    The answer still comes, and it takes the flush's cancelled future for one that waits.
    """

    async def _process_pong(self) -> None:
        if not (self._pongs and self._pongs[0].done()):
            await super()._process_pong()
            return
        self._pongs.pop(0)
        self._pongs_received += 1
        self._pings_outstanding = 0


class QueueConnection:
    """A connection; make one with `open_connection`."""

    def __init__(self, client: Client, settings: ConnectionSettings, log: Logger) -> None:
        self._client = client
        self._log = log
        self.role = settings.role
        self.names = Names(settings.prefix)
        self.closed: asyncio.Event = asyncio.Event()  # the client gave up: end the process
        self.generation = 0  # how often the connection broke: the server may be another since
        self._on_reconnect: list[Callable[[], None]] = []
        # Our own book of requests in place of the client's: its own knows only time-outs.
        self._inbox = f"{self.names.inbox_prefix(settings.role)}.{secrets.token_hex(8)}"
        self._tokens = itertools.count(1)
        self._asked: dict[str, asyncio.Future[Msg]] = {}
        self._is_closing = False
        self._told: dict[str, float] = {}  # errors, and when

    @property
    def is_connected(self) -> bool:
        """Whether NATS is there right now."""
        return self._client.is_connected

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time that the connection is back."""
        self._on_reconnect.append(callback)

    async def drop(self) -> None:
        """Close what was only half opened, without waiting for the server."""
        self._is_closing = True
        # nats-py believes itself closed, or not connected yet, while there is a transport.
        transport = self._client._transport  # noqa: SLF001 — it offers no way to say so
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.close()
        if transport is not None:
            with contextlib.suppress(OSError, RuntimeError):
                transport.close()  # type: ignore[no-untyped-call]  # nats-py has no types there

    async def close(self) -> None:
        """Close; what was sent (a record given back, say) has reached the server by then."""
        self._is_closing = True
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._client.flush(_CLOSE_SECONDS)
        # It drains a transport that is lost, too: to asyncio an OSError, to uvloop a RuntimeError.
        with contextlib.suppress(OSError, RuntimeError):
            await self._client.close()
        # It cancels its tasks once and does not wait; one that swallowed the cancellation (see
        # end_tasks) would go on connecting for ever and keep the event loop from ending.
        tasks = [getattr(self._client, name, None) for name in _CLIENT_TASKS]
        await end_tasks(task for task in tasks if task not in {None, asyncio.current_task()})

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_seconds: float = API_TIMEOUT_SECONDS,
        on_sent: Callable[[], None] | None = None,
    ) -> Msg:
        """Ask and return the answer. Raises QueueUnavailableError, QueueError.

        A request that is under way when the connection breaks fails at once: it would only time
        out, and whoever repeats it can do so as soon as the connection is back. `on_sent` is
        called between asking and waiting.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        token = str(next(self._tokens))
        self._asked[token] = answer
        timer = loop.call_later(timeout_seconds, _fail, answer, "no answer in time")
        try:
            await self.publish_nowait(
                subject, payload, reply=f"{self._inbox}.{token}", headers=headers
            )
            if on_sent is not None:
                on_sent()
            message = await answer
        finally:
            timer.cancel()
            del self._asked[token]
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            raise QueueUnavailableError("nobody answers: no such stream, or it has no leader")
        return message

    async def listen_for_answers(self) -> None:
        """Subscribe to our inbox; `open_connection` does it once."""
        await self.subscribe(f"{self._inbox}.*", self._answered)

    async def _answered(self, message: Msg) -> None:
        answer = self._asked.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def publish_nowait(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send without waiting for an answer. Raises QueueUnavailableError, RecordTooLargeError."""
        try:
            await self._client.publish(subject, payload, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError as error:
            raise refusal(400, 10054, "larger than the server's max_payload") from error
        except (nats.errors.Error, OSError) as error:
            raise QueueUnavailableError(str(error) or type(error).__name__) from error

    async def api(
        self, verb: str, body: dict[str, Any] | None = None, *, timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """Call the JetStream API `$JS.API.<verb>`. Raises QueueError when it answers an error."""
        answer = await self.request(
            f"$JS.API.{verb}",
            msgspec.json.encode(body) if body is not None else b"",
            timeout_seconds=timeout_seconds or API_TIMEOUT_SECONDS,
        )
        decoded: dict[str, Any] = msgspec.json.decode(answer.data)
        raise_error(decoded)
        return decoded

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]]
    ) -> Subscription:
        """Have `callback` called for each message on `subject`."""
        return await self._client.subscribe(subject, cb=callback)

    def new_inbox(self) -> str:
        """Return a subject of our own that nobody else hears."""
        return self._client.new_inbox()

    async def wait_gone(self) -> None:
        """Wait until the client has given up for good."""
        await self.closed.wait()

    # What nats-py calls.
    async def heard_error(self, error: Exception) -> None:
        """Log the server's or the client's own word on what went wrong.

        While a server is away each try to connect to it fails in the same way, four times a second:
        that is said now and then.
        """
        text = str(error) or type(error).__name__
        now = asyncio.get_running_loop().time()
        self._told = {each: at for each, at in self._told.items() if now - at < _TOLD_SECONDS}
        if text not in self._told:
            self._told[text] = now
            self._log.warning("queue.error", error=text)

    async def heard_disconnected(self) -> None:
        """Fail what was asked and not answered, and forget what was not sent yet.

        The client would send it to whatever server it finds next; an old ack may not go there.
        """
        self.generation += 1
        self._client._pending.clear()  # noqa: SLF001 — it offers no way to say so
        self._client._pending_data_size = 0  # noqa: SLF001 — see the line above
        for answer in list(self._asked.values()):
            _fail(answer, "the connection to the queue broke")
        if not self._is_closing:
            self._log.warning("queue.disconnected")

    async def heard_reconnected(self) -> None:
        """Wake whoever waits for the queue."""
        self._log.info("queue.reconnected")
        for callback in self._on_reconnect:
            callback()

    async def heard_closed(self) -> None:
        """Note that the client gave up for good."""
        self.closed.set()


async def open_connection(settings: ConnectionSettings, log: Logger) -> QueueConnection:
    """Connect, waiting for the server for as long as it takes.

    Leaves nothing open when it fails or is cancelled. Raises QueueError when the seed cannot be
    read or the server refuses us for good.
    """
    client = _Client()
    connection = QueueConnection(client, settings, log)
    seed = None
    if settings.seed_file is not None:
        try:
            seed = settings.seed_file.read_text().strip()
        except OSError as error:
            msg = f"cannot read the queue credential {settings.seed_file}: {error.strerror}"
            raise QueueError(msg) from error
    try:
        await client.connect(
            [url.strip() for url in settings.url.split(",")],
            name=f"{settings.prefix}-{settings.role}",
            nkeys_seed_str=seed,
            inbox_prefix=connection.names.inbox_prefix(settings.role),
            error_cb=connection.heard_error,
            disconnected_cb=connection.heard_disconnected,
            reconnected_cb=connection.heard_reconnected,
            closed_cb=connection.heard_closed,
            connect_timeout=2,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # nats-py says int, sleeps a float
            max_reconnect_attempts=-1,
            ping_interval=10,
            max_outstanding_pings=_MAX_OUTSTANDING_PINGS,
            pending_size=-1,
        )
        await connection.listen_for_answers()
    except (nats.errors.Error, OSError) as error:
        await connection.drop()
        msg = f"cannot connect to the queue at {settings.url}: {error}"
        raise QueueUnavailableError(msg) from error
    except BaseException:
        await connection.drop()
        raise
    return connection


def _fail(answer: asyncio.Future[Msg], why: str) -> None:
    if not answer.done():
        answer.set_exception(QueueUnavailableError(why))


def raise_error(answer: dict[str, Any]) -> None:
    """Raise the error that a JetStream answer carries, if it does."""
    error = answer.get("error")
    if error:
        raise refusal(
            int(error.get("code", 0)),
            int(error.get("err_code", 0)),
            str(error.get("description", "")),
        )
