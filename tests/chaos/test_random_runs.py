"""The short form of the random runs; `python -m tests.chaos` is the long one.

`MAILRELAY_CHAOS_SECONDS` and `MAILRELAY_CHAOS_SEED` choose another run for `make chaos`. Without
them: one fault of every kind on every process, whatever time that takes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.chaos import disk
from tests.chaos.plan import Kind, one_of_each, plan_for_one_of_each, plan_for_seconds
from tests.chaos.run import run_plan
from tests.chaos.sites import ONE_MACHINE
from tests.chaos.table import render

SEED = int(os.environ.get("MAILRELAY_CHAOS_SEED", "20261125"))
SECONDS = float(os.environ.get("MAILRELAY_CHAOS_SECONDS", "0"))
RATE = 30.0
MIN_MESSAGES = 100  # of the 1,000 and more that a minute and a half is meant to bring


@pytest.mark.chaos
@pytest.mark.timeout(900 + SECONDS)
async def test_no_accepted_mail_is_lost_and_each_duplicate_is_explained(tmp_path: Path) -> None:
    plan = plan_for_seconds(SEED, SECONDS) if SECONDS else plan_for_one_of_each(SEED)
    report = await run_plan(plan, tmp_path, rate=RATE)
    sys.stdout.write(f"\n{render(report)}\n")
    assert report.is_good, render(report)
    if not SECONDS:
        happened = {(each.fault.kind, each.fault.targets) for each in report.happened}
        assert happened >= set(one_of_each(ONE_MACHINE))
        if disk.is_possible():
            assert (Kind.DISK_FULL, ()) in happened
    # A relay through which little mail goes while it is hurt proves little.
    assert report.judgement.verdict.accepted_messages >= MIN_MESSAGES
