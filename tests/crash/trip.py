"""One walk's run on a rig: what was promised, what it must come to, and what it came to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import httpx

from mailrelay.emails import CONTENT_SUFFIX
from mailrelay.mail.job import FailedRecord
from mailrelay.queue.errors import QueueError
from mailrelay_monitor.failed_content import INLINE_BYTES
from tests.crash.queue_state import QueueState
from tests.crash.rig import Rig
from tests.support import dots
from tests.support.deliveries import LEDGER_HEADER
from tests.support.ledger import Ledger, LedgerEntry, Outcome, compare
from tests.support.replies import MalformedReplyError
from tests.support.smtp_client import SmtpDialogue
from tests.support.wait import wait_until

SENDER = "crash@sender.test"
PATIENCE_SECONDS = 60.0  # of a client that sends again
FINISH_SECONDS = 60.0
EMPTY_SECONDS = 15.0
# What a killed monitor does not remember to ask is the sweep's; else prompts last for 102 s.
PROMPTED_SECONDS = 14.0
_LOOK_SECONDS = 0.1
_FILLER = b"Each line of this letter is like the next, and none of them must be lost.\r\n"


@dataclass(frozen=True, slots=True)
class Letter:
    """A message to make; each has a name of its own, and so have its recipients."""

    ledger_id: str
    recipients: tuple[str, ...]
    content: bytes

    def entry(self, outcome: Outcome, code: int | None = None) -> LedgerEntry:
        """What the client's book says of it."""
        body = self.content.partition(b"\r\n\r\n")[2]
        now = time.time()
        return LedgerEntry(
            ledger_id=self.ledger_id,
            recipients=tuple(each for each in self.recipients if is_to_be_sent(each)),
            refused_recipients=(),
            size=len(self.content),
            sha256=hashlib.sha256(self.content).hexdigest(),
            body_sha256=hashlib.sha256(body).hexdigest(),
            outcome=outcome,
            code=code,
            queue_id=None,
            started=now,
            time=now,
        )


def is_to_be_sent(address: str) -> bool:
    """Whether the upstream takes mail for this recipient in the end."""
    return not address.startswith(("never.", "refuse.", "poison."))


def letter(ledger_id: str, kinds: Sequence[str], size: int) -> Letter:
    """Write a letter of about `size` octets to a recipient of each kind.

    A kind may name the recipient's domain behind an `@`.
    """
    parts = [kind.partition("@") for kind in kinds]
    recipients = tuple(
        f"{kind}.{n}.{ledger_id}@{domain or 'load.test'}"
        for n, (kind, _, domain) in enumerate(parts)
    )
    head = (
        f"From: <{SENDER}>\r\nSubject: {ledger_id}\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n"
        f"Message-ID: <{ledger_id}@load.test>\r\n{LEDGER_HEADER}: {ledger_id}\r\n\r\n"
    ).encode()
    lines = max(1, (size - len(head)) // len(_FILLER))
    return Letter(ledger_id, recipients, head + _FILLER * lines)


@dataclass(slots=True)
class Findings:
    """What does not agree at the end of a trip."""

    lost: list[str] = field(default_factory=list)
    duplicated: dict[str, int] = field(default_factory=dict)  # by recipient: how often taken
    strange: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Trip:
    """The walk's hands."""

    def __init__(self, rig: Rig, cell: str) -> None:
        self.rig = rig
        self.cell = cell
        self.ledger = Ledger()
        self.letters: dict[str, Letter] = {}
        self._numbers = itertools.count(1)
        self.began_at = time.time()
        self.copies = 0 if rig.name == "capture" else 1  # that the upstream is to take
        self.set_aside = 0  # unreadable records that must be kept
        self.deleted: set[str] = set()  # whose failed or captured record was deleted by hand
        self._queue_ids: dict[str, str] = {}  # of accepted letters

    async def begin(self) -> None:
        """Begin with nothing kept, deleted as people delete it."""
        self.rig.forget()
        await self.do("DELETE", "/api/failed", all=True)
        await self.do("DELETE", "/api/captured", all=True)

        async def is_empty() -> bool:
            state = await self._state()
            kept = state.failed or state.captured or state.set_aside or self.rig.failed_files()
            return not kept

        try:
            await wait_until(is_empty, EMPTY_SECONDS, "nothing is kept", interval=_LOOK_SECONDS)
        except AssertionError:
            # What a killed nats-server brought back after its deletion, the monitor does not know;
            # the cell in which it came back has told of it.
            await self.rig.purge_stores()

    async def submit(self, *kinds: str, size: int = 2_000) -> Letter:
        """Send a letter until it is accepted, as a program would; each try is a submission."""
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            written = self.write(kinds, size)
            entry = await self._try(written)
            self.ledger.record(entry)
            if entry.outcome is Outcome.ACCEPTED:
                return written
            assert time.monotonic() < ends_at, f"not accepted in time: {entry}"
            await asyncio.sleep(0.1)  # the client's own pace

    def write(self, kinds: Sequence[str], size: int = 2_000) -> Letter:
        """Write a letter without sending it."""
        written = letter(f"{self.cell}-{next(self._numbers)}", kinds, size)
        self.letters[written.ledger_id] = written
        return written

    def accepted(self, written: Letter, queue_id: str = "") -> None:
        """Note a letter that reached the queue by another way."""
        if queue_id:
            self._queue_ids[written.ledger_id] = queue_id
        self.ledger.record(written.entry(Outcome.ACCEPTED))

    async def withdraw(self) -> None:
        """Begin a transaction and take it back, until that is answered."""

        async def is_withdrawn() -> bool:
            with contextlib.suppress(OSError, MalformedReplyError):
                port = self.rig.relay.smtp_port
                async with SmtpDialogue.connect("127.0.0.1", port, limit_seconds=25) as client:
                    await client.expect(220)
                    await client.ehlo()
                    await client.cmd(f"MAIL FROM:<{SENDER}>", 250)
                    await client.cmd("RSET", 250)
                    return True
            return False

        await wait_until(is_withdrawn, PATIENCE_SECONDS, "a transaction is withdrawn", interval=0.1)

    async def submit_once(self, *kinds: str, size: int = 2_000) -> Outcome:
        """Send a letter once."""
        entry = await self._try(self.write(kinds, size))
        self.ledger.record(entry)
        return entry.outcome

    def give_up(self) -> None:
        """Promise nothing any more for what was accepted so far: its queue is gone."""
        self._queue_ids.clear()
        self.ledger.entries[:] = [
            replace(entry, outcome=Outcome.UNKNOWN) for entry in self.ledger.entries
        ]

    async def wait_idle(self) -> None:
        """Wait until no job is left."""

        async def is_idle() -> bool:
            return not (await self._state()).jobs

        await wait_until(is_idle, FINISH_SECONDS, "no job is left", interval=_LOOK_SECONDS)

    async def _try(self, written: Letter) -> LedgerEntry:
        sent = False
        port = self.rig.relay.smtp_port
        try:
            async with SmtpDialogue.connect("127.0.0.1", port, limit_seconds=25) as client:
                await client.expect(220)
                await client.ehlo()
                await client.cmd(f"MAIL FROM:<{SENDER}>", 250)
                for recipient in written.recipients:
                    await client.cmd(f"RCPT TO:<{recipient}>", 250)
                await client.cmd("DATA", 354)
                sent = True
                client.send_raw(dots.stuff(written.content))
                await client.drain()
                reply = await client.read_reply()
        except (OSError, AssertionError, MalformedReplyError):
            return written.entry(Outcome.UNKNOWN if sent else Outcome.NOT_SENT)
        if reply.code == 451:  # the queue did not answer in time: it may be stored all the same
            return written.entry(Outcome.UNKNOWN, reply.code)
        if reply.code != 250:
            return written.entry(Outcome.REFUSED, reply.code)
        self._queue_ids[written.ledger_id] = str(reply.queue_id)
        return written.entry(Outcome.ACCEPTED, reply.code)

    async def do(self, method: str, path: str, **body: object) -> None:
        """Ask the monitor until it has done it, as a person would."""

        async def is_done() -> bool:
            # Gone already: the answer to the time before was lost.
            return await self.rig.ask(method, path, **body) in {200, 404}

        await wait_until(is_done, PATIENCE_SECONDS, f"{method} {path} is answered", interval=0.1)

    async def resend_failed(self) -> None:
        """Ask for a resend of everything that failed."""
        await self.do("POST", "/admin/retry-failed")

    async def release_all(self, request: str) -> None:
        """Release everything captured to the upstream, which the relay does not know."""
        hop = f"127.0.0.1:{self.rig.upstream.port}"
        await self.do("POST", "/admin/release", all=True, next_hop=hop, request=request)
        self.copies += 1

    async def delete_captured(self, written: Letter) -> None:
        """Delete what was captured of a letter."""
        await self.do("DELETE", f"/api/captured/{self._queue_ids[written.ledger_id]}")
        self.deleted |= set(written.recipients)

    async def delete_failed(self, written: Letter) -> None:
        """Delete what failed of a letter."""
        await self.do("DELETE", f"/api/failed/{self._queue_ids[written.ledger_id]}")
        self.deleted |= {each for each in written.recipients if not is_to_be_sent(each)}

    async def wait_captured(self) -> None:
        """Wait until every accepted letter is captured."""

        async def are_there() -> bool:
            return self._accepted() <= _captured(await self._state())

        await wait_until(are_there, FINISH_SECONDS, "all is captured", interval=_LOOK_SECONDS)

    async def wait_taken(self) -> None:
        """Wait until the upstream has taken as many copies as were asked for."""

        async def are_taken() -> bool:
            return not self._judge(await self._state()).lost

        await wait_until(are_taken, FINISH_SECONDS, "all is taken", interval=_LOOK_SECONDS)

    async def wait_failed(self, kinds: Iterable[str], *, min_tries: int = 1) -> QueueState:
        """Wait until each accepted letter has a failed record for recipients of these kinds."""
        prefixes = tuple(f"{kind}." for kind in kinds)
        found: list[QueueState] = []

        async def are_there() -> bool:
            state = await self._state()
            failed = {
                record.recipient.address
                for record in state.failed
                if len(record.recipient.tries) >= min_tries
            }
            found.append(state)
            wanted = {each for each in self._accepted() if each.startswith(prefixes)}
            return bool(wanted) and wanted <= failed

        await wait_until(
            are_there, FINISH_SECONDS, f"{prefixes} have failed", interval=_LOOK_SECONDS
        )
        return found[-1]

    async def wait_no_failed(self, kind: str) -> None:
        """Wait until no recipient of the kind is in the failed store."""

        async def are_gone() -> bool:
            failed = (await self._state()).failed
            return not any(each.recipient.address.startswith(f"{kind}.") for each in failed)

        await wait_until(are_gone, FINISH_SECONDS, f"no {kind} is failed", interval=_LOOK_SECONDS)

    async def finish(self, limit_seconds: float = FINISH_SECONDS) -> Findings:
        """Wait until everything is as it must be in the end; what is not is returned."""
        ends_at = time.monotonic() + limit_seconds
        while True:
            state = await self._state_or_none()
            findings = self._judge(state) if state is not None else Findings(left=["no queue"])
            late = time.monotonic() >= ends_at
            if late or not (findings.lost or findings.left):
                break
            await asyncio.sleep(_LOOK_SECONDS)  # between two looks
        if not late:
            findings.left += await self._clean_bodies()
            findings.left += await self._uncounted()
        return findings

    def _accepted(self) -> set[str]:
        return self._recipients(Outcome.ACCEPTED)

    def _recipients(self, *outcomes: Outcome) -> set[str]:
        return {
            recipient
            for entry in self.ledger.entries
            if entry.outcome in outcomes
            for recipient in self.letters[entry.ledger_id].recipients
        }

    def _judge(self, state: QueueState) -> Findings:
        findings = Findings()
        verdict = compare(self.ledger, self.rig.upstream.received)
        findings.strange += [f"altered: {each}" for each in verdict.altered]
        findings.strange += [f"refused: {each}" for each in verdict.refused_but_delivered]
        findings.strange += [f"stranger: {each}" for each in verdict.strangers]
        taken = Counter(to for each in self.rig.upstream.received for to in each.rcpt_tos)
        accepted = self._accepted()
        to_send = {each for each in accepted if is_to_be_sent(each)}
        findings.lost += sorted(each for each in to_send if taken[each] < self.copies)
        findings.duplicated = {
            each: taken[each] - self.copies + 1 for each in to_send if taken[each] > self.copies
        }
        captured, failed = _captured(state), _failed(state)
        possible = self._recipients(Outcome.ACCEPTED, Outcome.UNKNOWN) - self.deleted
        captures = self.rig.name == "capture"
        kept = accepted if captures else accepted - to_send
        findings.lost += sorted(kept - self.deleted - (captured if captures else failed))
        may_fail = set() if captures else {each for each in possible if not is_to_be_sent(each)}
        findings.strange += [f"captured: {each}" for each in captured - possible]
        findings.strange += [f"failed: {each}" for each in failed - may_fail]
        if state.set_aside != self.set_aside:
            findings.lost.append(f"{state.set_aside} records set aside, not {self.set_aside}")
        findings.left += [f"{count} in {name}" for name, count in state.jobs.items()]
        findings.left += [f"{count} claimed by {name}" for name, count in state.claims.items()]
        files = set().union(*map(_files, state.failed))
        findings.left += [f"{each} has no file" for each in files - self.rig.failed_files()]
        findings.left += [f"the file {each}" for each in self.rig.failed_files() - files]
        return findings

    async def _clean_bodies(self) -> list[str]:
        """Wait for the prompted deletion; where the prompt died, do what the sweep would."""
        killed_at = self.rig.arming.killed_at(self.cell)
        state = QueueState()

        async def are_gone() -> bool:
            nonlocal state
            state = await self._state()
            return _names_body(state) or not state.bodies

        with contextlib.suppress(AssertionError):
            limit = PROMPTED_SECONDS if killed_at is None else 3.0
            await wait_until(are_gone, limit, "the bodies are deleted", interval=0.1)
            return []
        if killed_at is not None:
            await self.rig.wait_restarted()
            await self.rig.sweep()
            with contextlib.suppress(AssertionError):
                await wait_until(are_gone, 5.0, "the bodies are swept", interval=0.1)
        if _names_body(state):
            return []
        return [f"{count} in {name}" for name, count in state.bodies.items()]

    async def _uncounted(self) -> list[str]:
        """Wait until the monitor tells the end of every accepted letter."""
        waiting = dict(self._queue_ids)

        async def are_told() -> bool:
            for ledger_id, queue_id in list(waiting.items()):
                answer = await self.rig.get(f"/api/messages/{queue_id}")
                if answer.status_code != 200 or answer.json()["state"] == "queued":
                    return False
                del waiting[ledger_id]
            return True

        async def are_told_at_last() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return await are_told()
            return False

        try:
            await wait_until(
                are_told_at_last, 30, "the monitor tells each end", interval=_LOOK_SECONDS
            )
        except AssertionError:
            return [f"{each} is queued or unknown to the monitor" for each in waiting]
        return []

    async def _state(self) -> QueueState:
        state = await self._state_or_none()
        assert state is not None, "the queue does not answer"
        return state

    async def _state_or_none(self) -> QueueState | None:
        try:
            return await self.rig.state()
        except (QueueError, AssertionError, OSError):
            return None


def _captured(state: QueueState) -> set[str]:
    return {each.address for kept in state.captured for each in kept.job.recipients}


def _failed(state: QueueState) -> set[str]:
    return {record.recipient.address for record in state.failed}


def _files(record: FailedRecord) -> set[str]:
    """The names of a failed record's files."""
    job, number = record.job, record.recipient.number
    size = job.body.size_bytes if job.body is not None else len(job.content)
    files = {f"{job.submission}-{number}.json"}
    return files | ({f"{job.submission}{CONTENT_SUFFIX}"} if size > INLINE_BYTES else set())


def _names_body(state: QueueState) -> bool:
    """Whether a record for people still names a stored body."""
    jobs = [each.job for each in state.failed] + [each.job for each in state.captured]
    return any(job.body is not None for job in jobs)
