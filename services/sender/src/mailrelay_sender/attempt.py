"""Try one job by one route: MAIL, RCPT for each recipient, DATA, content.

The next smart host of the route is tried when one cannot be used: connection, TLS or AUTH failed.
Once there is a connection it is this one's word that counts, whatever it says and however it ends.

The commands leave together where the next hop offers PIPELINING (docs/decisions/0031).

Failure is per recipient. Whatever breaks the attempt off, what was decided before stands, and
every recipient that was not decided is deferred with the reason. Raises nothing of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.header import MAX_HEADER_BYTES
from mailrelay.mail.job import Job, Recipient
from mailrelay.mail.reply import Reply
from mailrelay.queue.bodies import BodyUnreadableError
from mailrelay.runtime.steps import passed
from mailrelay_sender.classify import (
    CLOSING,
    Stage,
    all_down,
    body_unreadable,
    disposition_of,
    internal_fault,
    is_accepted,
    needs_smtputf8,
    timed_out,
)
from mailrelay_sender.connection import (
    ConnectError,
    ConnectionPool,
    Conversation,
    HopConnection,
    HopError,
)
from mailrelay_sender.plan import Hosts

Pieces = Callable[[Job], AsyncIterator[bytes]]


@dataclass(slots=True)
class AttemptResult:
    """What an attempt came to; `fault` is an unexpected exception of our own.

    One that is let go of has no outcomes: it is as if it had not been.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    tls: str = ""
    fault: Exception | None = None
    is_let_go: bool = False


@dataclass(slots=True)
class _Trial:
    """An attempt under way."""

    job: Job
    next_hop: str  # who is spoken with; before that, all who may be
    result: AttemptResult
    undecided: list[Recipient]
    is_ours: Callable[[], bool]

    def decide(self, recipients: list[Recipient], stage: Stage, reply: Reply) -> None:
        """Settle recipients by a reply."""
        disposition = disposition_of(stage, reply)
        self.result.outcomes += [
            Outcome(recipient.number, disposition, reply, self.next_hop) for recipient in recipients
        ]
        decided = {recipient.number for recipient in recipients}
        self.undecided = [left for left in self.undecided if left.number not in decided]

    def decide_rest(self, reply: Reply) -> None:
        """Defer all that were not decided."""
        self.decide(self.undecided, Stage.CONNECTION, reply)


async def attempt(
    job: Job,
    hosts: Hosts,
    pieces: Pieces,
    limit_seconds: float,
    *,
    is_ours: Callable[[], bool] = lambda: True,
) -> AttemptResult:
    """Try the job once, within `limit_seconds`, and return every recipient's outcome.

    `is_ours` is asked right before the first RCPT leaves, when the job becomes open (decision
    0004): connecting may have taken long, and another sender may have been given the job meanwhile.
    """
    trial = _Trial(job, hosts.next_hop, AttemptResult(), list(job.recipients), is_ours)
    try:
        async with asyncio.timeout(limit_seconds):
            await _with_connection(trial, hosts, pieces, hosts.connect_seconds(limit_seconds))
    except _LetGo:
        trial.result.is_let_go = True
    except TimeoutError:
        trial.decide_rest(timed_out(trial.next_hop, limit_seconds))
    except HopError as error:
        trial.decide_rest(error.reply)
    except BodyUnreadableError as error:
        trial.decide_rest(body_unreadable(str(error)))
    except Exception as error:  # noqa: BLE001 — a bug is a temporary failure (queue rule 13)
        trial.result.fault = error
        trial.decide_rest(internal_fault(f"{type(error).__name__}: {error}"))
    return trial.result


async def _with_connection(
    trial: _Trial, hosts: Hosts, pieces: Pieces, connect_seconds: float
) -> None:
    content = pieces(trial.job)
    first = await anext(content)  # before a server is bothered: the content must be readable
    begun = await _begun(trial, hosts, first, connect_seconds)
    connection = begun.connection
    finished = False
    try:
        trial.result.tls = connection.tls
        finished = await _transaction(trial, begun, _all(first, content))
    finally:
        if finished:
            connection.messages += 1
            await begun.pool.put_back(connection)
        else:
            connection.abort()


class _LetGo(Exception):  # noqa: N818 — no error: another sender may have the job
    """The job may be another's by now."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A transaction at a smart host: the answer to MAIL, and the replies behind it."""

    pool: ConnectionPool
    connection: HopConnection
    mail: Reply
    rest: Conversation


async def _begun(trial: _Trial, hosts: Hosts, first: bytes, connect_seconds: float) -> _Begun:
    """Have MAIL answered by the first smart host that can be used.

    Raises ConnectError when none can be, with all their reasons; HopError, _LetGo.
    """
    trying, replies = hosts.in_turn()
    for pool in trying:
        trial.next_hop = pool.next_hop
        try:
            return await _begun_at(trial, pool, first, connect_seconds)
        except ConnectError as error:
            replies.append(error.reply)
    trial.next_hop = hosts.next_hop
    raise ConnectError(all_down(*replies))


async def _begun_at(
    trial: _Trial, pool: ConnectionPool, first: bytes, connect_seconds: float
) -> _Begun:
    connection = await pool.get(limit_seconds=connect_seconds)
    try:
        if connection.messages:
            # A kept connection may be closed by now, or be told so as the answer to MAIL; nothing
            # was taken then, so one try on a fresh one is safe.
            opened = await _open_on_kept(trial, connection, first)
            if opened is not None:
                return _Begun(pool, connection, *opened)
            connection.abort()
            connection = await pool.get(fresh=True, limit_seconds=connect_seconds)
        return _Begun(pool, connection, *await _open(trial, connection, first))
    except BaseException:
        connection.abort()
        raise


_Opening = tuple[Reply, Conversation]


async def _open_on_kept(trial: _Trial, connection: HopConnection, first: bytes) -> _Opening | None:
    try:
        mail, rest = await _open(trial, connection, first)
    except HopError:
        return None
    return None if mail.code == CLOSING else (mail, rest)


async def _open(trial: _Trial, connection: HopConnection, first: bytes) -> _Opening:
    """Begin a transaction: with all of its commands, or with the first. Raises HopError, _LetGo."""
    job = trial.job
    mail = [b"MAIL", b"FROM:<" + job.reverse_path.encode() + b">"]
    if connection.supports("size"):
        mail.append(b"SIZE=%d" % job.size_bytes)
    if job.body_8bitmime and connection.supports("8bitmime"):
        mail.append(b"BODY=8BITMIME")
    if job.smtputf8:
        if connection.supports("smtputf8"):
            mail.append(b"SMTPUTF8")
        elif _needs_smtputf8(job, first):
            return needs_smtputf8(trial.next_hop), connection.converse(())
    if not trial.is_ours():
        raise _LetGo
    rcpts = [(b"RCPT", b"TO:<" + each.address.encode() + b">") for each in job.recipients]
    conversation = connection.converse((tuple(mail), *rcpts, (b"DATA",)))
    reply = await conversation.next()
    passed("attempt.mail_answered")
    return reply, conversation


async def _transaction(trial: _Trial, begun: _Begun, content: AsyncIterator[bytes]) -> bool:
    """Return whether the connection is between transactions, ready for the next one."""
    connection, mail, conversation = begun.connection, begun.mail, begun.rest
    if not is_accepted(Stage.MAIL, mail):
        trial.decide(trial.undecided, Stage.MAIL, mail)
        return await _reset(connection, mail, conversation)
    if not trial.is_ours():  # again: the answer may have taken long, and nothing is taken yet
        raise _LetGo
    taken: list[Recipient] = []
    for recipient in trial.job.recipients:
        reply = await conversation.next()
        passed("attempt.rcpt_answered")
        if is_accepted(Stage.RCPT, reply):
            taken.append(recipient)
            continue
        trial.decide([recipient], Stage.RCPT, reply)
        if reply.code == CLOSING:
            trial.decide_rest(reply)
            return False
    if not taken:
        return await _reset(connection, mail, conversation)
    reply = await conversation.next()
    passed("attempt.data_answered")
    if not is_accepted(Stage.DATA, reply):
        trial.decide(taken, Stage.DATA, reply)
        return await _reset(connection, reply, conversation)
    reply = await connection.content(content)
    passed("attempt.content_answered")
    trial.decide(taken, Stage.CONTENT, reply)
    return reply.code != CLOSING


async def _reset(connection: HopConnection, last: Reply, conversation: Conversation) -> bool:
    """End a transaction without content; False when that needs the connection's end."""
    if last.code == CLOSING:
        return False
    try:
        for reply in await conversation.rest():
            # DATA was sent with the rest, and the server waits for content for nobody (RFC 2920
            # section 3.1 would have it end with a dot, and some might deliver that).
            if is_accepted(Stage.DATA, reply) or reply.code == CLOSING:
                return False
        reply = await connection.command(b"RSET")
    except HopError:
        return False
    return reply.code == 250  # noqa: PLR2004 — RFC 5321 section 4.3.2: RSET has one good reply


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _needs_smtputf8(job: Job, first: bytes) -> bool:
    """A client may say SMTPUTF8 to be safe; it matters only where something is not ASCII."""
    addresses = (job.reverse_path, *(recipient.address for recipient in job.recipients))
    end = first.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES)
    head = first[: MAX_HEADER_BYTES if end < 0 else end]
    return not (all(address.isascii() for address in addresses) and head.isascii())


def leave_out(job: Job, reply: Reply) -> AttemptResult:
    """Return the outcome of a job that is ended untried."""
    outcomes = [
        Outcome(recipient.number, Disposition.NOT_TRIED, reply, "") for recipient in job.recipients
    ]
    return AttemptResult(outcomes)


def give_up(job: Job, next_hop: str, reply: Reply) -> AttemptResult:
    """Return the outcome of a job that is not tried again."""
    outcomes = [
        Outcome(recipient.number, Disposition.EXPIRED, reply, next_hop)
        for recipient in job.recipients
    ]
    return AttemptResult(outcomes)


def defer(job: Job, next_hop: str, reply: Reply) -> AttemptResult:
    """Return the outcome of a job that could not be tried now."""
    outcomes = [
        Outcome(recipient.number, Disposition.DEFERRED, reply, next_hop)
        for recipient in job.recipients
    ]
    return AttemptResult(outcomes)


def capture(job: Job, reply: Reply) -> AttemptResult:
    """Return the outcome of a job that is kept instead of sent."""
    outcomes = [
        Outcome(recipient.number, Disposition.CAPTURED, reply, "capture")
        for recipient in job.recipients
    ]
    return AttemptResult(outcomes)
