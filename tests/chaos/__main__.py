"""Long random runs: `python -m tests.chaos --kills 1000 --seed 1`, or `--minutes 10`.

The table says of each kind of fault how often it came, what was lost (always nothing), what was
delivered twice and what allows that. The same seed and length give the same plan. A run that fails
keeps its folder and prints how to run it again.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import disk
from tests.chaos.books import read_books
from tests.chaos.judge import judge
from tests.chaos.plan import plan_for_kills, plan_for_seconds
from tests.chaos.run import run_plan
from tests.chaos.sites import ONE_MACHINE, THREE_SERVERS
from tests.chaos.table import render

RATE = 30.0
SITES = {1: ONE_MACHINE, 3: THREE_SERVERS}


def main() -> int:
    """Run from the command line; returns the exit code."""
    options = _arguments()
    if options.judge is not None:
        return _judge_again(options.judge)
    site = SITES[options.servers]
    if options.kills is not None:
        plan = plan_for_kills(options.seed, options.kills, site)
        length = f"--kills {options.kills}"
    else:
        seconds = 60 * options.minutes
        plan = plan_for_seconds(options.seed, seconds, site)
        length = f"--minutes {options.minutes:g}"
    folder = options.keep or Path(tempfile.mkdtemp(prefix="mailrelay-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    again = (
        f"python -m tests.chaos --seed {options.seed} {length} --servers {options.servers} "
        f"--rate {options.rate:g}"
    )
    sys.stdout.write(f"{again}, in {folder}\n")
    sys.stdout.flush()
    # So that what is told to end leaves no relay and no mounted disk behind, and its books whole.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    kept = f"kept: {folder}\nagain: {again}\n"
    try:
        report = asyncio.run(
            run_plan(plan, folder, rate=options.rate, site=site, small_disk=options.disk)
        )
    except BaseException:
        sys.stdout.write(kept)
        raise
    sys.stdout.write(f"{render(report)}\n{'good' if report.is_good else 'BAD'}\n")
    if not report.is_good:
        sys.stdout.write(kept)
    elif options.keep is None:
        shutil.rmtree(folder)
    return 0 if report.is_good else 1


def _judge_again(folder: Path) -> int:
    """Judge the books of a kept folder once more."""
    names = ("ledger.jsonl", "upstream.jsonl", "faults.json")
    judgement = judge(read_books(*(folder / name for name in names)))
    lines = [str(judgement.verdict), *(f"NOT EXPLAINED: {each}" for each in judgement.unexplained)]
    lines += [f"{times:6} {each.fault}: {each.why}" for each, times in judgement.excused.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if judgement.is_good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--kills", type=int, help="as many processes are ended by SIGKILL")
    length.add_argument("--minutes", type=float, default=5.0, help="without --kills; 5 by default")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--servers", type=int, choices=SITES, default=1, help="nats-servers")
    parser.add_argument("--rate", type=float, default=RATE, help="messages a second")
    parser.add_argument(
        "--disk",
        action=argparse.BooleanOptionalAction,
        default=disk.is_possible(),
        help="whether the queue's disk is small and made full (needs root)",
    )
    parser.add_argument("--keep", type=Path, help="an empty folder to leave everything in")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="judge a kept run again")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
