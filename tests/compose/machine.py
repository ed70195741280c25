"""A machine with systemd as its first process, in a container; what runs on it is gone with it.

It needs what systemd needs: the right to mount, and cgroups of the second version, a tree of them.
The first process and the services of the machine that the tests run on are not touched.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.compose.base_image import NAME
from tests.compose.docker import docker, run
from tests.compose.images import package_index
from tests.support.command import ROOT, Done
from tests.support.wait import wait_until

IMAGE = "mailrelay-machine"
_BUILD_SECONDS = 600.0  # measured 22 s; the packages come over the network
_BOOT_SECONDS = 60.0  # measured 1 s
_RUN_SECONDS = 240.0
# Not `privileged`: that takes capabilities which the tests' own machine may not have itself.
_RIGHTS = (
    *("--cap-add", "SYS_ADMIN", "--cgroupns", "private"),
    *(
        part
        for each in ("seccomp", "apparmor")
        for part in ("--security-opt", f"{each}=unconfined")
    ),
    *("--security-opt", "systempaths=unconfined"),
    *("--tmpfs", "/run", "--tmpfs", "/tmp"),  # noqa: S108 — a container's
)


@dataclass(frozen=True, slots=True)
class Machine:
    """One such machine."""

    name: str

    async def run(self, script: str, limit: float = _RUN_SECONDS) -> Done:
        """Run a script of the shell as root; what it came to."""
        return await run("docker", "exec", self.name, "bash", "-euc", script, limit=limit)

    async def do(self, script: str, limit: float = _RUN_SECONDS) -> str:
        """Run a script that must succeed; what it printed."""
        return await docker("exec", self.name, "bash", "-euc", script, limit=limit)

    async def take(self, source: Path, destination: str) -> None:
        """Copy a file or a folder to the machine; it is root's there."""
        await docker("cp", str(source), f"{self.name}:{destination}")
        await self.do(f"chown -R root:root '{destination}'")


async def build_machine() -> None:
    """Build the image, on the Dockerfile's base and with its nats-server."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    base = NAME.search(dockerfile)
    nats = re.search(r"^ARG NATS_SERVER_VERSION=(\S+)$", dockerfile, re.MULTILINE)
    assert base is not None
    assert nats is not None
    versions = (f"PYTHON_IMAGE={base['image']}", f"NATS_SERVER_VERSION={nats[1]}")
    await docker(
        *("buildx", "build", "--network", "host", "--load", "--quiet", "--tag", IMAGE),
        *(part for each in versions for part in ("--build-arg", each)),
        *("--file", "tests/compose/machine.Dockerfile", "tests/compose"),
        limit=_BUILD_SECONDS,
    )


@contextlib.asynccontextmanager
async def running_machine() -> AsyncIterator[Machine]:
    """Return a machine whose first process is up."""
    await build_machine()
    name = f"mailrelay-machine-{secrets.token_hex(4)}"
    machine = Machine(name)
    index = [part for each in package_index() for part in ("--env", each)]
    await docker("run", "--detach", "--name", name, *_RIGHTS, *index, IMAGE)
    try:

        async def is_up() -> bool:
            said = await machine.run("systemctl is-system-running")
            assert said.stdout.strip() == "running", said
            return True

        await wait_until(is_up, _BOOT_SECONDS, "systemd has started everything", 0.2)
        yield machine
    finally:
        await docker("rm", "--force", "--volumes", name)
