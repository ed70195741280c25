"""The client in a pod: `python -m tests.cluster.load_pod FOLDER`.

FOLDER has `plan.json`, the fields of a LoadPlan, and `ca.crt`, which the relay's certificate is
checked by. The ledger is written there; the run ends when a file `stop` is there, and then says so
with a file `report.json`.
"""

from __future__ import annotations

import asyncio
import json
import math
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
    fields["credentials"] = tuple(fields["credentials"])
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    return LoadPlan(starttls=context, **fields)


async def main(folder: Path) -> None:
    """Send until the file is there."""
    stop = asyncio.Event()

    async def wait_stop() -> None:
        await wait_until((folder / "stop").exists, math.inf, "the run is stopped", _LOOK_SECONDS)
        stop.set()

    watching = asyncio.create_task(wait_stop())
    with Ledger(folder / "ledger.jsonl") as ledger:
        report = await run_load(read_plan(folder), ledger, stop)
    watching.cancel()
    written = folder / "report.json.new"
    written.write_text(json.dumps(asdict(report)))
    written.rename(folder / "report.json")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
