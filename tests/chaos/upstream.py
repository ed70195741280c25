"""The upstream of the random runs, in a process of its own: it is never killed with the rest.

`python -m tests.chaos.upstream --port P --record FILE` reads the name of a trouble (see
`tests.chaos.plan.TROUBLES`), or an empty line for none, from standard input. Beside the troubles it
always defers some recipients, refuses some for good at their first attempt, and takes a moment to
answer the final dot, so that deliveries are under way when a fault comes.

Its record has one kind of line more than `tests.support.upstream_process`: `untold`, a transaction
that was taken and whose client was not told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.chaos.plan import TROUBLES
from tests.support.deliveries import Delivery
from tests.support.replies import Reply
from tests.support.scripting import (
    ACCEPT,
    AcceptThenClose,
    Action,
    Close,
    CloseInContent,
    Context,
    Delay,
    Stage,
    Stall,
)
from tests.support.scripts import chosen
from tests.support.upstream import ScriptedUpstream
from tests.support.upstream_process import FLUSH_SECONDS, Record

REPLY_DELAY_SECONDS = 0.08  # keeps deliveries in flight
DEFERRED_FRACTION = 0.05
REFUSED_FRACTION = 0.02
GRACE_SECONDS = 1.0
REFUSING = "refuses connections"
LATER = Reply(451, "4.3.0 Try again later")
CLOSING = Reply(421, "4.3.2 Closing")
NO_SUCH_USER = Reply(550, "5.1.1 No such user here")

_AT: dict[str, tuple[Stage, Action]] = {
    "resets connections": (Stage.CONNECT, Close(reset=True)),
    "421 as greeting": (Stage.CONNECT, CLOSING),
    "451 to EHLO": (Stage.EHLO, LATER),
    "silent after the greeting": (Stage.EHLO, Stall()),
    "451 to MAIL": (Stage.MAIL, LATER),
    "resets after MAIL": (Stage.RCPT, Close(reset=True)),
    "451 to RCPT": (Stage.RCPT, LATER),
    "451 to DATA": (Stage.DATA, LATER),
    "resets in the content": (Stage.DATA, CloseInContent(1000, reset=True)),
    "451 after the final dot": (Stage.FINAL_DOT, LATER),
    "421 after the final dot": (Stage.FINAL_DOT, CLOSING),
    "closes, not having taken it": (Stage.FINAL_DOT, Close()),
    "closes, having taken it": (Stage.FINAL_DOT, AcceptThenClose()),
    "resets, having taken it": (Stage.FINAL_DOT, AcceptThenClose(reset=True)),
    "no answer to the final dot": (Stage.FINAL_DOT, Stall()),
}
_BY_CHANCE: dict[str, tuple[float, Action]] = {  # at RCPT
    "451 to half of RCPT": (0.5, LATER),
    "550 to a fifth of RCPT": (0.2, NO_SUCH_USER),
}
# Whatever fails before RCPT leaves no line about the recipients in the record.
BEFORE_RCPT = frozenset(
    {REFUSING}
    | {name for name, (stage, _) in _AT.items() if stage in {Stage.CONNECT, Stage.EHLO, Stage.MAIL}}
)
assert {REFUSING, *_AT, *_BY_CHANCE} == set(TROUBLES)


class TroubledScript:
    """Answers as the trouble of the moment says, and otherwise as a moody but honest server."""

    def __init__(self) -> None:
        self.trouble = ""
        self.untold: set[int] = set()  # transactions

    def __call__(self, stage: Stage, context: Context) -> Action:
        action = self._trouble(stage, context)
        if isinstance(action, AcceptThenClose):
            self.untold.add(context.transaction)
        return action

    def _trouble(self, stage: Stage, context: Context) -> Action:
        at, action = _AT.get(self.trouble, (None, ACCEPT))
        if stage is at:
            return action
        if stage is Stage.RCPT:
            fraction, by_chance = _BY_CHANCE.get(self.trouble, (0.0, ACCEPT))
            if chosen(f"{context.transaction}{context.address}", fraction, 1):
                return by_chance
            if context.nth == 1 and chosen(context.address, DEFERRED_FRACTION, 2):
                return LATER
            if context.nth == 1 and chosen(context.address, REFUSED_FRACTION, 3):
                return NO_SUCH_USER
        if stage is Stage.FINAL_DOT:
            return Delay(REPLY_DELAY_SECONDS)
        return ACCEPT


async def serve(port: int, file: Path) -> None:
    """Run until SIGTERM."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    script = TroubledScript()
    upstream = ScriptedUpstream(script, port=port, keep_content=False, keep_received=False)
    record = Record(file)
    upstream.on_rcpt = record.rcpt

    def taken(delivery: Delivery) -> None:
        if delivery.transaction in script.untold:
            record.note({"kind": "untold", "transaction": delivery.transaction})
        record.delivery(delivery)

    upstream.on_delivery = taken
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def obey() -> None:
        while line := await reader.readline():
            script.trouble = line.decode().strip()
            if script.trouble == REFUSING:
                await upstream.stop(GRACE_SECONDS)
            else:
                await upstream.start()
                if script.trouble in BEFORE_RCPT:
                    upstream.drop_connections()  # kept ones would not notice

    obeying = asyncio.create_task(obey())
    async with upstream:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), FLUSH_SECONDS)
            record.flush()
        obeying.cancel()
        await asyncio.gather(obeying, return_exceptions=True)
        await upstream.stop(GRACE_SECONDS)
    for violation in upstream.violations:
        record.note({"kind": "violation", "what": violation})
    record.close()


class UpstreamProcess:
    """The running process; `set_trouble` changes its mood."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def set_trouble(self, trouble: str) -> None:
        """Have this trouble, or with an empty string none, from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{trouble}\n".encode())


@contextlib.asynccontextmanager
async def upstream_process(port: int, record: Path) -> AsyncIterator[UpstreamProcess]:
    """Run it for a `with` block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.chaos.upstream", "--port", str(port), "--record", str(record)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready = await asyncio.wait_for(process.stdout.readline(), 10)
        assert ready == b"READY\n"
        yield UpstreamProcess(process)
    finally:
        process.terminate()
        await process.wait()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="tests.chaos.upstream")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.record))


if __name__ == "__main__":
    main()
