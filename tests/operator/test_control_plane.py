"""The processes of a control plane end with whoever started them, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.kubernetes.control_plane import ControlPlane
from tests.support.kubernetes.programs import CONTROL_PLANE, find_programs
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 60.0
STARTER = """
import asyncio, json, sys
from pathlib import Path
from tests.support.kubernetes.control_plane import ControlPlane
from tests.support.kubernetes.programs import CONTROL_PLANE, find_programs

plane = ControlPlane(find_programs(CONTROL_PLANE, print), Path(sys.argv[1]))
asyncio.run(plane.start())
daemons = (plane.etcd, plane.api_server, plane.controller_manager)
print(json.dumps([daemon.pid for daemon in daemons]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, tmp_path / "plane"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


async def test_no_process_outlives_a_killed_one_that_started_it(
    starter: subprocess.Popen[str],
) -> None:
    assert starter.stdout is not None
    processes = [psutil.Process(pid) for pid in json.loads(starter.stdout.readline())]
    assert [process.name()[:14] for process in processes] == [
        "etcd",
        "kube-apiserver",
        "kube-controlle",
    ]
    starter.kill()

    def all_have_ended() -> bool:
        return not any(has_not_ended(process) for process in processes)

    await wait_until(all_have_ended, LIMIT_SECONDS, "all have ended")


def has_not_ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_program_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    plane = ControlPlane(find_programs(CONTROL_PLANE, print), tmp_path / "plane")
    (tmp_path / "plane" / "credentials" / "server.key").write_text("no key")
    try:
        with pytest.raises(RuntimeError, match=r"kube-apiserver ended with 1[\s\S]*PEM data"):
            asyncio.run(plane.start())
    finally:
        plane.kill()


def test_its_files_are_for_nobody_else(tmp_path: Path) -> None:
    plane = ControlPlane(find_programs(CONTROL_PLANE, print), tmp_path / "plane")
    try:
        assert (tmp_path / "plane").stat().st_mode & 0o077 == 0
        assert plane.kubeconfig.stat().st_mode & 0o077 == 0
    finally:
        plane.kill()
