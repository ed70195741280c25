"""Store a submission while it comes in, and turn the queue's word into the client's reply.

The only place that publishes mail. 250 is returned only behind the queue's ack. Small content is
inline in its job; what outgrows that goes to the body stream in chunks while the client still
sends, at most `CHUNKS_IN_FLIGHT` at once, so that a message of any size holds a bounded memory.
Chunks of a DATA that does not end well are told to the monitor, which deletes them; those of a job
that may be stored all the same are left to its sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence

from prometheus_client import Counter, Histogram

from mailrelay.config.model import RelayConfig
from mailrelay.mail.event import Abandoned, Accepted, Summary
from mailrelay.mail.header import MAX_HEADER_BYTES, HeaderSection, read_header
from mailrelay.mail.job import Body, Job
from mailrelay.mail.reply import Reply
from mailrelay.queue.bodies import (
    CHUNK_BYTES,
    MAX_COPIED_BYTES,
    MAX_INLINE_BYTES,
    BodyStore,
    Writing,
    body_token,
)
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import (
    QueueError,
    QueueFullError,
    QueueRefusedError,
    RecordTooLargeError,
)
from mailrelay.queue.events import EventWriter
from mailrelay.queue.publish import MAX_BATCH, Publisher, Record
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay.runtime.tracing import Tracing
from mailrelay_ingress import replies
from mailrelay_ingress.accept import Submission
from mailrelay_ingress.keep import ContentKeeper, Copy
from mailrelay_ingress.memory import CHUNKS_IN_FLIGHT, SMALL_BYTES, Share

_ALONE_BYTES = 4096  # a piece this large is kept as it came, not copied

_accepted = Counter("mailrelay_accepted_total", "Messages accepted: safe in the queue.")
_accepted_recipients = Counter("mailrelay_accepted_recipients_total", "Their recipients.")
_refused = Counter(
    "mailrelay_enqueue_refused_total",
    "Messages that the queue did not take.",
    # `full` is answered 452, `too_large` 552, `unavailable` 451
    ["reason"],
)
for _reason in ("full", "too_large", "unavailable"):
    _refused.labels(_reason)  # 0: the first one is an increase, too
_seconds = Histogram(
    "mailrelay_enqueue_seconds",
    "From the final dot to the queue's word.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)


class Enqueuer:
    """Stores submissions over one connection."""

    def __init__(
        self,
        connection: QueueConnection,
        events: EventWriter,
        tracing: Tracing,
        log: Logger,
        batch_size: int,
        keeper: ContentKeeper | None = None,
    ) -> None:
        self._connection = connection
        self._names = connection.names
        self._publisher = Publisher(connection)
        self._bodies = BodyStore(connection, self._publisher)
        self._events = events
        self._tracing = tracing
        self._log = log
        self._batch_size = batch_size
        self._keeper = keeper

    def use(self, config: RelayConfig) -> None:
        """Take another `batchSize`, for what is accepted from now on."""
        self._batch_size = config.batch_size

    def begin(
        self,
        submission: Submission,
        share: Share,
        judge_header: Callable[[HeaderSection], Reply | None],
    ) -> Intake:
        """Start to take a submission's content in."""
        copy = self._keeper.begin(submission) if self._keeper else None
        return Intake(submission, share, self._bodies, judge_header, copy, left=self._tell_left)

    async def finish(self, intake: Intake) -> Reply:
        """Store the submission, all recipients or none, and return the client's reply."""
        submission = intake.submission
        section = await intake.complete()
        refusal = intake.refusal
        if refusal is not None:
            return refusal
        span = self._tracing.start(
            "mailrelay accept", section.traceparent, started_at=submission.accepted_at
        )
        started = asyncio.get_running_loop().time()
        generation = self._connection.generation
        try:
            intake.raise_failure()
            content = b"" if intake.body else intake.inline()
            jobs = await self._jobs(intake, content, span.traceparent)
            intake.is_offered = True
            await self._publisher.store_together(
                [self._record(job) for job in jobs], guard=intake.check_body
            )
            passed("enqueue.jobs_stored")
        except QueueError as error:
            # Refused is not stored, unless a try before was cut off with its connection. Without
            # an answer it may be stored whenever the queue goes on.
            is_refused = isinstance(error, QueueRefusedError)
            if is_refused and self._connection.generation == generation:
                intake.is_offered = False
            reply = self._not_stored(submission, error)
            span.end({"mailrelay.queue_id": submission.queue_id}, error=str(error))
            return reply
        _seconds.observe(asyncio.get_running_loop().time() - started)
        if intake.copy is not None:
            intake.copy.keep(content)
        _accepted.inc()
        _accepted_recipients.inc(len(submission.recipients))
        span.end(
            {
                "mailrelay.queue_id": submission.queue_id,
                "mailrelay.recipients": len(submission.recipients),
                "mailrelay.size_bytes": jobs[0].size_bytes,
            }
        )
        self._events.tell(
            Accepted(Summary.of(jobs[0]), submission.accepted_at, submission.recipients)
        )
        passed("enqueue.event_told")
        self._log.info(
            "mail.accepted",
            id=submission.queue_id,
            sender=submission.reverse_path,
            recipients=len(submission.recipients),
            jobs=len(jobs),
            size_bytes=jobs[0].size_bytes,
            client=submission.client.address,
            user=submission.client.user,
            trace=span.traceparent,
        )
        return replies.accepted(submission.queue_id)

    async def _jobs(self, intake: Intake, content: bytes, traceparent: str) -> list[Job]:
        submission = intake.submission
        body = intake.body
        size = body.size_bytes if body else len(content)
        # Recipients that were taken under a larger batchSize still fit in one batch of jobs.
        batch_size = max(self._batch_size, submission.batches(MAX_BATCH))
        copies = submission.batches(batch_size)
        if copies > 1 and size > MAX_COPIED_BYTES and body is None:
            await intake.begin_body()
            body = await self._bodies.store_content(submission.queue_id, content)
            passed("enqueue.body_stored")
            content = b""
        return list(
            submission.jobs(
                batch_size, content=content, body=body, size=size, traceparent=traceparent
            )
        )

    def _record(self, job: Job) -> Record:
        subject = self._names.in_subject(body_token(job))
        # One job is named by its submission alone, several by their number too (queue rule 1).
        message_id = job.name if job.batches > 1 else job.submission
        return Record(subject, encode_jobs([job]), message_id)

    def _tell_left(self, submission: Submission, size_bytes: int) -> None:
        """Tell that chunks of a submission may be stored that no record names, nor ever will."""
        summary = Summary(
            submission.queue_id,
            submission.reverse_path,
            size_bytes,
            len(submission.recipients),
            submission.accepted_at,
            stored_body=True,
        )
        self._events.tell(Abandoned(summary, time.time()))

    def _not_stored(self, submission: Submission, error: QueueError) -> Reply:
        if isinstance(error, QueueFullError):
            reason, reply = "full", replies.QUEUE_FULL
        elif isinstance(error, RecordTooLargeError):
            reason, reply = "too_large", replies.TOO_BIG
        else:
            reason, reply = "unavailable", replies.QUEUE_UNREACHABLE
        _refused.labels(reason).inc()
        self._log.warning(
            "mail.not_queued",
            id=submission.queue_id,
            reason=reason,
            error=str(error),
            sender=submission.reverse_path,
            client=submission.client.address,
        )
        return reply


class Intake:
    """One submission's content on its way in."""

    def __init__(
        self,
        submission: Submission,
        share: Share,
        bodies: BodyStore,
        judge_header: Callable[[HeaderSection], Reply | None],
        copy: Copy | None = None,
        left: Callable[[Submission, int], None] | None = None,
    ) -> None:
        """`left` is told of a submission whose content was stored in vain, and how much of it."""
        self._left = left
        self.is_offered = False  # whether a job that names the content is stored, or may be yet
        self.submission = submission
        self.copy = copy  # of what is accepted, for people (`keep`)
        self.refusal: Reply | None = None
        self.body: Body | None = None
        self._share = share
        self._bodies = bodies
        self._judge_header = judge_header
        self._pieces: list[bytes | bytearray] = []
        self._held_bytes = 0
        self._section: HeaderSection | None = None
        self._digest = hashlib.sha256()
        self._chunks = 0
        self._stored_bytes = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._writing: Writing | None = None  # once something went to the body stream

    async def add(self, piece: bytes) -> None:
        """Take the next octets; waits while the budget or the queue has no room for more."""
        if not piece or self.refusal is not None:
            return
        if self._failure is not None:  # the rest of the DATA is read, and not kept
            self._pieces.clear()
            self._held_bytes = 0
            return
        self._hold(piece)
        if self._held_bytes > SMALL_BYTES and not await self._share.reserve_large():
            self.refuse(replies.BUSY)
            return
        if self._held_bytes > MAX_INLINE_BYTES or self._chunks:
            self._put_fields_on_top()
            await self._store_chunks(at_least=CHUNK_BYTES)

    def _hold(self, piece: bytes) -> None:
        """Keep octets, small pieces together: each by itself would take many times its size."""
        last = self._pieces[-1] if self._pieces else b""
        if len(piece) >= _ALONE_BYTES:
            self._pieces.append(piece)
        elif isinstance(last, bytearray):
            last += piece
        else:
            self._pieces.append(bytearray(piece))
        self._held_bytes += len(piece)

    def refuse(self, reply: Reply) -> None:
        """Note that the message is not taken, and let go of what is held of it."""
        self.refusal = self.refusal or reply
        self._pieces.clear()
        self._held_bytes = 0

    async def complete(self) -> HeaderSection:
        """Finish with the content; returns what its header section says."""
        section = self._put_fields_on_top()
        if self._chunks and self.refusal is None:
            await self._store_chunks(at_least=1)
        if self._under_way:
            await asyncio.gather(*self._under_way)
        if self._chunks and self._failure is None:
            self.body = Body(self._chunks, self._stored_bytes, self._digest.hexdigest())
            passed("enqueue.chunks_stored")
        return section

    def inline(self) -> bytes:
        """Return the whole content; only for content that was not stored as a body."""
        content = b"".join(self._pieces)
        self._pieces.clear()
        return content

    async def abandon(self) -> None:
        """Stop storing: the client is gone or the message is not taken, or all is done."""
        if self.copy is not None:
            self.copy.drop()
        for task in self._under_way:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._writing is not None and not self.is_offered and self._left is not None:
            self._left(self.submission, self._stored_bytes)

    async def begin_body(self) -> None:
        """Note that content goes to the body stream. Raises QueueError."""
        self._writing = self._writing or await self._bodies.begin()

    async def check_body(self) -> None:
        """Look whether a job may name what was stored. Raises BodyLostError, QueueError."""
        if self._writing is not None:
            await self._bodies.check(self._writing)

    def _has_failed(self) -> bool:
        return self._failure is not None

    def raise_failure(self) -> None:
        """Raise what went wrong with a chunk."""
        if self._failure is not None:
            raise self._failure

    def _put_fields_on_top(self) -> HeaderSection:
        """Read the header section and put our fields in front; once."""
        if self._section is None:
            head = _head(self._pieces)
            self._section = read_header(head)
            refusal = self._judge_header(self._section)
            if refusal is not None:
                self.refuse(refusal)
            top = self.submission.fields_on_top(self._section)
            self._pieces.insert(0, top)
            self._held_bytes += len(top)
        return self._section

    async def _store_chunks(self, *, at_least: int) -> None:
        """Send whole chunks off (or, at the end, what is left), a few at a time."""
        if self._held_bytes < at_least or self._failure is not None:
            return
        content = b"".join(self._pieces)
        whole = len(content) if at_least == 1 else len(content) - len(content) % CHUNK_BYTES
        for start in range(0, whole, CHUNK_BYTES):
            chunk = content[start : min(start + CHUNK_BYTES, whole)]
            try:
                await self.begin_body()
            except QueueError as error:
                self._failure = error
                return
            self._digest.update(chunk)
            self._stored_bytes += len(chunk)
            if self.copy is not None:
                self.copy.add(chunk)
            while len(self._under_way) >= CHUNKS_IN_FLIGHT:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            if self._has_failed():  # meanwhile; another one would be tried for as long again
                return
            task = asyncio.create_task(self._store_chunk(self._chunks, chunk))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            self._chunks += 1
        self._pieces = [content[whole:]]
        self._held_bytes = len(content) - whole

    async def _store_chunk(self, number: int, chunk: bytes) -> None:
        try:
            await self._bodies.store_chunk(self.submission.queue_id, number, chunk)
        except Exception as error:  # noqa: BLE001 — whatever it is, there is no 250 without this chunk
            self._failure = self._failure or error


def _head(pieces: Sequence[bytes | bytearray]) -> bytes:
    head: list[bytes | bytearray] = []
    size = 0
    for piece in pieces:
        head.append(piece)
        size += len(piece)
        if size >= MAX_HEADER_BYTES:
            break
    return b"".join(head)
