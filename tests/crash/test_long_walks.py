"""The long walks; each kind of process dies once in each of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.crash.long_walks import LONG_WALKS, VICTIMS, run_long
from tests.crash.rig import running_rig


@pytest.mark.crash
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LONG_WALKS)
async def test_a_kill_in_a_long_walk_loses_nothing(tmp_path: Path, name: str) -> None:
    kind, walk = LONG_WALKS[name]
    results = []
    async with running_rig(tmp_path / "rig", kind) as rig:
        for victim in VICTIMS:
            results.append(await run_long(rig, name, walk, victim))
            sys.stdout.write(f"\n{results[-1]}")
    assert all(result.is_good for result in results), "\n".join(map(str, results))
