"""Helm as people run it: the real program, with folders of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.kubernetes.client import Manifest, documents
from tests.support.kubernetes.programs import find_programs

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "mailrelay"
HELM_SECONDS = 200.0  # a second on a quiet machine

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Helm said."""

    code: int
    out: str
    err: str


class HelmFailedError(AssertionError):
    """It did not do what a test needs."""


class Helm:
    """Runs Helm against one cluster, or, without a kubeconfig, against none."""

    def __init__(self, folder: Path, kubeconfig: Path | None = None) -> None:
        self._folder = folder
        self._kubeconfig = kubeconfig
        self._count = 0

    async def run(self, *arguments: str, values: Values | None = None) -> Outcome:
        """Run it to its end, with values as a file."""
        program = find_programs(["helm"], print)["helm"]
        command = [str(program), *arguments]
        if values is not None:
            command += ["--values", str(self._file(values))]
        names = ("CACHE", "CONFIG", "DATA")
        own = {f"HELM_{name}_HOME": str(self._folder / name.lower()) for name in names}
        # Without a cluster it must not find one by itself.
        own["KUBECONFIG"] = str(self._kubeconfig or self._folder / "none")
        process = await asyncio.create_subprocess_exec(
            *command,
            env={"PATH": os.environ["PATH"], "HOME": str(self._folder), **own},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), HELM_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        assert process.returncode is not None
        return Outcome(process.returncode, out.decode(), err.decode())

    async def did(self, *arguments: str, values: Values | None = None) -> str:
        """Run it; what it printed, or a failure with what it said."""
        outcome = await self.run(*arguments, values=values)
        if outcome.code:
            raise HelmFailedError(f"helm {' '.join(arguments)}: {outcome.err}")
        return outcome.out

    async def refused(self, *arguments: str, values: Values | None = None) -> str:
        """Run it where it must refuse; the message."""
        outcome = await self.run(*arguments, values=values)
        assert outcome.code != 0, outcome.out
        return outcome.err

    async def rendered(
        self, namespace: str, values: Values | None = None, *more: str
    ) -> list[Manifest]:
        """All manifests of the chart, hooks and tests too."""
        arguments = ("template", "mailrelay", str(CHART), "--namespace", namespace, *more)
        return documents(await self.did(*arguments, values=values or {}))

    def _file(self, values: Values) -> Path:
        self._count += 1
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"values-{self._count}.yaml"
        path.write_text(json.dumps(values))
        return path


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one manifest of that kind and name."""
    (found,) = (
        each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found
