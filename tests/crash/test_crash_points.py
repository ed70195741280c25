"""Kills after each step of the protocol; `python -m tests.crash.matrix` runs chosen cells."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.crash.matrix import NOT_WALKED, Run, run_matrix
from tools.reference.step_page import marked_steps

MARKED = {step.name for step in marked_steps()}


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_a_kill_after_any_step_loses_nothing(tmp_path: Path) -> None:
    judge(await run_matrix(tmp_path, full=False))


@pytest.mark.crash
@pytest.mark.timeout(3600)
async def test_a_kill_after_any_step_of_any_walk_loses_nothing(tmp_path: Path) -> None:
    judge(await run_matrix(tmp_path, full=True))


def judge(run: Run) -> None:
    sys.stdout.write(f"\n{run}\n")
    assert run.is_good
    assert run.steps == MARKED - NOT_WALKED.keys()


def test_the_steps_without_a_walk_are_steps() -> None:
    assert NOT_WALKED.keys() <= MARKED
