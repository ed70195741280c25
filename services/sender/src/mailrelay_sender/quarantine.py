"""Suspicious records are tried alone (queue rule 13).

A record that kills its sender would come back and kill the next one, for ever, and hold up the
mail beside it. One that was delivered often is suspicious (`suspicion`) and no more than that. It
is tried in a process of its own (`alone`), one at a time, and only what that
process does counts: when it died for the `DEATHS`-th time, the record goes to the failed store with
the evidence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
from prometheus_client import Counter

from mailrelay.config.model import RelayConfig
from mailrelay.mail.job import Job
from mailrelay.queue.bodies import BodyStore, BodyUnreadableError
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.lifecycle import LIFELINE_FD, READY_FD
from mailrelay.runtime.logging import Logger
from mailrelay_sender.alone import (
    ASKS,
    END,
    FRAME,
    GO,
    PIECE,
    RECORD,
    RESULT_FD,
    UNREADABLE,
    AttemptAlone,
)
from mailrelay_sender.attempt import AttemptResult, give_up
from mailrelay_sender.classify import poison
from mailrelay_sender.connection import Verdicts

DEATHS = 3
_START_AND_END_SECONDS = 15.0  # on top of the attempt's own limit
_MODULE = "mailrelay_sender.alone"
# A process that may be killed by what it reads gets nothing of the queue.
_NOT_FOR_IT = ("MAILRELAY_NATS_URL", "MAILRELAY_NATS_SEED_FILE", READY_FD, "MAILRELAY_LISTEN_FDS")

_quarantined = Counter(
    "mailrelay_quarantined_attempts_total",
    "Attempts made in a process of their own, by how that ended.",
    ["ended"],  # orderly; died
)


class NotBegunError(Exception):
    """The attempt did not begin, as it may not any more."""


class AloneError(Exception):
    """Our own code failed in the process; what it said is the message."""


class Quarantine:
    """Tries suspicious records, one after the other."""

    def __init__(
        self,
        environ: Mapping[str, str],
        bodies: BodyStore,
        limit_seconds: float,
        log: Logger,
        *,
        verdicts: Verdicts,
    ) -> None:
        """`environ` is the sender's own; `limit_seconds` is the attempt's (processingTimeout).

        `verdicts` counts its final dots too, and says whether one may go out.
        """
        self._verdicts = verdicts
        self._environ = {key: value for key, value in environ.items() if key not in _NOT_FOR_IT}
        self._bodies = bodies
        self._limit_seconds = limit_seconds + _START_AND_END_SECONDS
        self._log = log
        self._alone = asyncio.Lock()

    def use(self, config: RelayConfig) -> None:
        """Take the attempt's limit of another configuration."""
        self._limit_seconds = config.processing_timeout + _START_AND_END_SECONDS

    async def attempt(
        self, job: Job, next_hop: str, delivered: int, may_begin: Callable[[], bool]
    ) -> AttemptResult:
        """Try the job; its recipients have expired when the process died `DEATHS` times.

        `may_begin` is asked when it is its turn. Raises NotBegunError, or OSError when no process
        can be started.
        """
        async with self._alone:
            if not may_begin():
                raise NotBegunError
            self._log.warning(
                "record.quarantined", id=job.submission, batch=job.batch, delivered=delivered
            )
            for death in range(1, DEATHS + 1):
                answer, how = await self._try(job)
                if answer is not None:
                    _quarantined.labels("orderly").inc()
                    fault = AloneError(answer.fault) if answer.fault else None
                    return AttemptResult(list(answer.outcomes), fault=fault)
                _quarantined.labels("died").inc()
                self._log.error("quarantine.died", id=job.submission, how=how, death=death)
        return give_up(job, next_hop, poison(how, DEATHS))

    async def _try(self, job: Job) -> tuple[AttemptAlone | None, str]:
        """Return the answer, or how the process ended without one."""
        lifeline, ours = os.pipe()
        reading, result = os.pipe()
        answer = await _reader(reading)
        try:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", _MODULE),
                    stdin=asyncio.subprocess.PIPE,
                    env={**self._environ, LIFELINE_FD: str(lifeline), RESULT_FD: str(result)},
                    pass_fds=(lifeline, result),
                )
            finally:
                os.close(lifeline)
                os.close(result)
            return await self._wait(process, job, answer)
        finally:
            os.close(ours)

    async def _wait(
        self, process: asyncio.subprocess.Process, job: Job, answer: asyncio.StreamReader
    ) -> tuple[AttemptAlone | None, str]:
        try:
            async with asyncio.timeout(self._limit_seconds):
                await self._give(process, job)
                said = await answer.read(1)
                if said == ASKS:
                    async with self._verdicts.one():
                        await self._allow(process)
                        said = await answer.read()
                else:
                    # Until the pipe is closed, by its end if not before.
                    said += await answer.read()
                code = await process.wait()
        except TimeoutError:
            return None, f"did not end within {self._limit_seconds:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            return msgspec.msgpack.decode(said, type=AttemptAlone), ""
        except msgspec.DecodeError:
            return None, f"ended by signal {-code}" if code < 0 else f"ended with {code}"

    async def _allow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101 — asked for as a pipe
        with contextlib.suppress(ConnectionError):  # it died
            _write(process.stdin, GO, b"")
            await process.stdin.drain()

    async def _give(self, process: asyncio.subprocess.Process, job: Job) -> None:
        stdin = process.stdin
        assert stdin is not None  # noqa: S101 — asked for as a pipe
        with contextlib.suppress(ConnectionError):  # it died, or needs no more
            _write(stdin, RECORD, encode_jobs([replace(job, content=b"")]))
            try:
                async for piece in self._bodies.pieces(job):
                    _write(stdin, PIECE, piece)
                    await stdin.drain()
                _write(stdin, END, b"")
            except BodyUnreadableError as error:
                _write(stdin, UNREADABLE, str(error).encode())
            await stdin.drain()


async def _reader(pipe: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    return reader


def _write(stdin: asyncio.StreamWriter, kind: bytes, octets: bytes) -> None:
    stdin.write(FRAME.pack(kind, len(octets)) + octets)
