"""A bounded load: so many messages over so many sessions, each one accounted for.

Policy: a connection lost before the final dot gives the message another try; one
lost after it leaves the outcome unknown and the message is not sent again, so
that whatever arrives twice was doubled by the relay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import dots
from tests.support.ledger import Ledger, LedgerEntry, Outcome
from tests.support.load_connection import ConnectionLostError, LoadConnection
from tests.support.load_plan import LoadMessage, LoadPlan, make_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.replies import Reply

# Between two tries of a message: long enough not to spin, short enough not to idle.
TRY_AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A run in figures; times are what the clients waited for a whole transaction."""

    messages: int
    accepted: int
    refused: int
    unknown: int
    not_sent: int
    connections: int
    seconds: float
    accepted_per_second: float
    median_seconds: float
    p99_seconds: float


@dataclass(frozen=True, slots=True)
class _Ending:
    outcome: Outcome
    reply: Reply | None
    rcpt_tos: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class _Run:
    def __init__(self, plan: LoadPlan, ledger: Ledger, stop: asyncio.Event | None) -> None:
        self.plan = plan
        self.ledger = ledger
        self.stop = stop
        self.connections = 0
        self.began = time.monotonic()
        self.numbers = self._numbers()

    def _numbers(self) -> Iterator[int]:
        number = 0
        plan = self.plan
        while plan.count is None or number < plan.count:
            if self.is_over():
                return
            yield number
            number += 1

    def is_over(self) -> bool:
        if self.stop is not None and self.stop.is_set():
            return True
        limit = self.plan.duration_seconds
        return limit is not None and time.monotonic() - self.began >= limit

    async def session(self) -> None:
        connection: LoadConnection | None = None
        sent = 0
        try:
            for number in self.numbers:
                if not await self._wait_turn(number):
                    return
                connection = await self._submit(make_message(self.plan, number), connection)
                sent += 1
                if sent == self.plan.messages_per_connection and connection is not None:
                    await connection.quit()
                    connection, sent = None, 0
        finally:
            if connection is not None:
                await connection.quit()

    async def _wait_turn(self, number: int) -> bool:
        if self.plan.rate is not None:
            due = self.began + number / self.plan.rate
            limit = self.plan.duration_seconds
            if limit is not None and due > self.began + limit:
                return False
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return not (self.stop is not None and self.stop.is_set())

    async def _submit(
        self, message: LoadMessage, connection: LoadConnection | None
    ) -> LoadConnection | None:
        """Try until there is an outcome; return the connection if it can be used again."""
        patience_ends = time.monotonic() + self.plan.patience_seconds
        started = time.time()
        while True:
            connection, ending = await self._try(message, connection)
            temporary = ending.reply is not None and 400 <= ending.reply.code < 500
            again = ending.outcome is Outcome.NOT_SENT or (
                ending.outcome is Outcome.REFUSED and temporary and self.plan.retries_temporary
            )
            is_over = self.is_over() and not self.plan.finishes_begun
            if not again or time.monotonic() >= patience_ends or is_over:
                break
            if ending.reply is not None:
                self.ledger.tell(ending.reply.code)
            await asyncio.sleep(TRY_AGAIN_SECONDS)
        reply = ending.reply
        self.ledger.record(
            LedgerEntry(
                ledger_id=message.ledger_id,
                recipients=ending.rcpt_tos,
                refused_recipients=ending.refused,
                size=len(message.content),
                sha256=message.sha256,
                body_sha256=message.body_sha256,
                outcome=ending.outcome,
                code=reply.code if reply is not None else None,
                queue_id=reply.queue_id if reply is not None else None,
                started=started,
                time=time.time(),
            )
        )
        return connection

    async def _try(
        self, message: LoadMessage, connection: LoadConnection | None
    ) -> tuple[LoadConnection | None, _Ending]:
        try:
            if connection is None or connection.lost:
                connection = await LoadConnection.open(self.plan)
                self.connections += 1
        except ConnectionLostError as error:
            return None, _Ending(Outcome.NOT_SENT, error.reply)
        ending = _Ending(Outcome.NOT_SENT, None)
        try:
            ending = await self._transaction(connection, message)
            if ending.outcome is Outcome.REFUSED and not connection.lost:
                # DATA without recipients and a refused DATA leave the transaction open.
                await connection.ask(b"RSET\r\n")
        except ConnectionLostError:
            connection.abort()
        if connection.lost or (ending.reply is not None and ending.reply.code == 421):
            connection.abort()
            return None, ending
        return connection, ending

    async def _transaction(self, connection: LoadConnection, message: LoadMessage) -> _Ending:
        params = f" SIZE={len(message.content)}" if connection.offers_size else ""
        lines = [f"MAIL FROM:<{message.mail_from}>{params}\r\n"]
        lines += [f"RCPT TO:<{rcpt}>\r\n" for rcpt in message.rcpt_tos]
        lines.append("DATA\r\n")
        if connection.offers_pipelining:
            replies = await connection.ask("".join(lines).encode(), len(lines))
        else:
            replies = []
            for line in lines:
                replies += await connection.ask(line.encode())
                if len(replies) == 1 and replies[0].code != 250:
                    break
        mail, data = replies[0], replies[-1]
        answers = list(zip(message.rcpt_tos, replies[1:-1], strict=False))
        taken = tuple(rcpt for rcpt, reply in answers if reply.code in {250, 251})
        refused = tuple(rcpt for rcpt, reply in answers if reply.code not in {250, 251})
        if mail.code != 250:
            return _Ending(Outcome.REFUSED, mail, (), message.rcpt_tos)
        if data.code != 354 or not taken:
            if data.code == 354:
                await connection.ask(b".\r\n")  # RFC 2920 §3.1
            why = next((reply for _, reply in answers if reply.code >= 400), data)
            return _Ending(Outcome.REFUSED, why if not taken else data, taken, refused)
        connection.write(dots.stuff(message.content))
        try:
            (final,) = await connection.replies(1)
        except ConnectionLostError:
            return _Ending(Outcome.UNKNOWN, None, taken, refused)
        outcome = Outcome.ACCEPTED if final.code == 250 else Outcome.REFUSED
        return _Ending(outcome, final, taken, refused)


async def run_load(plan: LoadPlan, ledger: Ledger, stop: asyncio.Event | None = None) -> LoadReport:
    """Send what the plan says; every message begun is in the ledger afterwards.

    Setting `stop` ends it before the plan does.
    """
    run = _Run(plan, ledger, stop)
    before = len(ledger.entries)
    async with asyncio.TaskGroup() as sessions:
        for _ in range(plan.sessions):
            sessions.create_task(run.session())
    seconds = time.monotonic() - run.began
    entries = ledger.entries[before:]
    counts = dict.fromkeys(Outcome, 0)
    for entry in entries:
        counts[entry.outcome] += 1
    waits = sorted(e.seconds for e in entries if e.outcome is Outcome.ACCEPTED) or [0.0]
    return LoadReport(
        messages=len(entries),
        accepted=counts[Outcome.ACCEPTED],
        refused=counts[Outcome.REFUSED],
        unknown=counts[Outcome.UNKNOWN],
        not_sent=counts[Outcome.NOT_SENT],
        connections=run.connections,
        seconds=seconds,
        accepted_per_second=counts[Outcome.ACCEPTED] / seconds,
        median_seconds=waits[len(waits) // 2],
        p99_seconds=waits[min(len(waits) - 1, len(waits) * 99 // 100)],
    )


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="tests.support.load")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int)
    parser.add_argument("--duration", type=float, metavar="SECONDS")
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--messages-per-connection", type=int)
    parser.add_argument("--rate", type=float, help="messages per second")
    parser.add_argument("--size", type=int, default=5_000, help="octets")
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument("--domain", default="load.test")
    parser.add_argument("--mail-from", default="load@sender.test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", default="", help="prefix of the ledger ids")
    parser.add_argument("--user", help="AUTH PLAIN; the password is LOAD_PASSWORD's")
    parser.add_argument("--retry-temporary", action="store_true")
    parser.add_argument("--patience", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--ledger", type=Path, help="JSON lines are appended to this file")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace, password: str) -> LoadPlan:
    """Turn the command line into a plan."""
    return LoadPlan(
        host=options.host,
        port=options.port,
        count=options.count,
        duration_seconds=options.duration,
        sessions=options.sessions,
        messages_per_connection=options.messages_per_connection,
        rate=options.rate,
        sizes=((options.size, 1.0),),
        recipient_counts=((options.recipients, 1.0),),
        mail_from=options.mail_from,
        domain=options.domain,
        seed=options.seed,
        run=options.run,
        credentials=(options.user, password) if options.user else None,
        patience_seconds=options.patience,
        retries_temporary=options.retry_temporary,
    )


def main() -> None:
    """Run from the command line; the report is one JSON line on standard output."""
    options = parse_arguments(sys.argv[1:])
    plan = plan_of(options, os.environ.get("LOAD_PASSWORD", ""))
    with Ledger(options.ledger) as ledger:
        report = asyncio.run(run_load(plan, ledger))
    sys.stdout.write(json.dumps(asdict(report)) + "\n")


if __name__ == "__main__":
    main()
