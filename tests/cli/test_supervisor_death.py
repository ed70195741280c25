"""However the supervisor dies, its children die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP])
async def test_children_even_deaf_ones_end_with_a_supervisor_that_is_killed(
    number: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "pids.json"
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.cli.stand_in", str(file)
    )
    try:
        await wait_until(file.exists, 20, "all children ready")
        pids = json.loads(file.read_text())
        assert set(pids) == {"plain", "deaf", "busy"}
        children = [psutil.Process(pid) for pid in pids.values()]
        os.kill(supervisor.pid, number)
        assert await asyncio.wait_for(supervisor.wait(), 5) == -number
        await wait_until(lambda: not any(map(_is_alive, children)), 5, "the children's end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            supervisor.kill()
        await supervisor.wait()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
