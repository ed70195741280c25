"""Real sender processes at a real nats-server; killed at a step when a test says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mailrelay.queue.rights import Role
from tests.support.nats import NatsServer

# What the project's own __main__ does, with a listener that ends the process at a step.
_PROGRAM = """
import os, signal, sys
from mailrelay.runtime import steps
from mailrelay_sender.main import main

deadly = os.environ.get("TEST_KILL_AT")

def listener(step):
    if step == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

steps.listen(listener)
sys.exit(main(os.environ))
"""


@contextmanager
def running_sender(
    folder: Path,
    server: NatsServer,
    *,
    kill_at: str = "",
    **config: Any,  # noqa: ANN401
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a sender until the block's end."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"hostName": "relay.test", "security": {"requireAuth": False}, **config})
    )
    ready, tell = os.pipe()
    environ = {
        **os.environ,
        "MAILRELAY_CONFIG": str(folder / "config.json"),
        "MAILRELAY_NATS_URL": server.url,
        "MAILRELAY_NATS_SEED_FILE": str(server.seed_file(Role.SENDER)),
        "MAILRELAY_READY_FD": str(tell),
        "TEST_KILL_AT": kill_at,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(tell,),
        )
    os.close(tell)
    try:
        with open(ready, "rb") as pipe:  # noqa: PTH123 — a descriptor
            said = pipe.readline()
        if not kill_at:
            assert said == b"ready\n", (folder / "log").read_text()
        yield process
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (folder / "log").read_text()
