"""The short form of the random kills; `python -m tests.chaos.random_kills` is the long one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.chaos.random_kills import run_kills

ROUNDS = int(os.environ.get("MAILRELAY_CHAOS_ROUNDS", "3"))
SEED = int(os.environ.get("MAILRELAY_CHAOS_SEED", "20261123"))


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_no_accepted_mail_is_lost_and_each_duplicate_is_explained(tmp_path: Path) -> None:
    run = await run_kills(tmp_path, rounds=ROUNDS, seed=SEED)
    sys.stdout.write(f"\n{run}\n")
    assert run.is_good, str(run)
    assert run.most_in_flight >= 8
