"""Small children for a supervisor, and a supervisor of them in a process of its own.

`python -m tests.cli.stand_in FILE` supervises three children, one of which ignores every signal
that can be ignored, writes their process ids into FILE once all are ready, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from mailrelay_cli.supervisor import ChildSpec, StopRequest, Supervisor

READY = "import os, signal, sys, time\nos.write(int(os.environ['MAILRELAY_READY_FD']), b'ready')\n"
LIVE = "signal.pause()\n"
DEAF = (
    "import os, signal\n"
    "for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
    "    signal.pthread_sigmask(signal.SIG_BLOCK, {number})\n"
)


def stand_in(
    name: str, program: str, fds: tuple[int, ...] = (), stop_seconds: float = 5.0
) -> ChildSpec:
    """Return a child that runs a Python program."""
    # -S: without site-packages it starts in a third of the time.
    argv = (sys.executable, "-S", "-E", "-c", program)
    return ChildSpec(name=name, argv=argv, env={}, fds=fds, stop_seconds=stop_seconds)


async def _supervise(file: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs the tests may ignore it, as nohup does
    groups = [
        [stand_in("plain", READY + LIVE)],
        [
            stand_in("deaf", DEAF + READY + "while True:\n    time.sleep(60)\n"),
            stand_in("busy", READY + "while True:\n    pass\n"),
        ],
    ]
    supervisor = Supervisor(tell=lambda *_: None, note=lambda *_, **__: None, sink=lambda *_: None)

    def write() -> None:
        scratch = file.with_suffix(".new")
        scratch.write_text(json.dumps(supervisor.pids))
        scratch.rename(file)

    await supervisor.run(groups, ("plain", "deaf", "busy"), StopRequest(), write)


if __name__ == "__main__":
    asyncio.run(_supervise(Path(sys.argv[1])))
