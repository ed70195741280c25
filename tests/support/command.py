"""A command that somebody else's program is, run to its end or not left running."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Done:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str


async def run(
    *command: str | Path,
    limit: float,
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
) -> Done:
    """Run a command to its end, in the repository; raises TimeoutError after `limit` seconds."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=dict(environ) if environ is not None else None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(stdin.encode()), limit)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Done(
        process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
    )
