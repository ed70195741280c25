"""The client in a pod: `python -m tests.cluster.load_pod FOLDER`.

FOLDER gets, from outside: `ca.crt`, which the relay's certificate is checked by; `login.json`, user
and password, which may change; then `plan.json`, the fields of a LoadPlan. The ledger is written
there; the run ends when a file `stop` is there, and the ledger's last line then is its report.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import ssl
import sys
from dataclasses import asdict
from pathlib import Path

from tests.support.ledger import Ledger
from tests.support.load import run_load
from tests.support.load_plan import LoadPlan
from tests.support.wait import wait_until

_LOOK_SECONDS = 0.1


def read_plan(folder: Path) -> LoadPlan:
    """Read the plan, as JSON has it."""
    fields = json.loads((folder / "plan.json").read_text())
    for name in ("sizes", "recipient_counts"):
        fields[name] = tuple((value, weight) for value, weight in fields[name])
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    return LoadPlan(starttls=context, credentials_file=folder / "login.json", **fields)


async def main(folder: Path) -> None:
    """Send until the file is there."""
    stop = asyncio.Event()

    async def wait_stop() -> None:
        await wait_until((folder / "stop").exists, math.inf, "the run is stopped", _LOOK_SECONDS)
        stop.set()

    await wait_until((folder / "plan.json").exists, math.inf, "the plan comes", _LOOK_SECONDS)
    watching = asyncio.create_task(wait_stop())
    with Ledger(folder / "ledger.jsonl") as ledger:
        report = await run_load(read_plan(folder), ledger, stop)
        ledger.end(asdict(report))
    watching.cancel()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    asyncio.run(main(Path(sys.argv[1])))
    # With this process the folder would go, before all of the ledger is copied.
    signal.sigwait({signal.SIGTERM})
