"""The docker command, and one compose project: what a test starts is gone when it ends."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.command import Done
from tests.support.command import run as run_command
from tests.support.wait import wait_until

COMMAND_SECONDS = 120.0
HEALTHY_SECONDS = 90.0  # the check is asked every 10 s; on a busy machine the relay takes 10 s
ALL_IN_ONE, SPLIT = "docker-compose.yml", "docker-compose.split.yml"
QUICK, QUICK_SPLIT = "tests/compose/quick-checks.yml", "tests/compose/quick-checks.split.yml"
V1, V2 = ("docker-compose",), ("docker", "compose")


class DockerError(AssertionError):
    """A command that should have succeeded; the text has what it said."""


async def run(
    *command: str, environ: Mapping[str, str] | None = None, limit: float = COMMAND_SECONDS
) -> Done:
    """Run a command to its end."""
    return await run_command(*command, environ=environ, limit=limit)


async def do(
    *command: str, environ: Mapping[str, str] | None = None, limit: float = COMMAND_SECONDS
) -> str:
    """Run a command that must succeed; what it printed."""
    done = await run(*command, environ=environ, limit=limit)
    if done.code != 0:
        raise DockerError(
            f"{' '.join(command)} ended with {done.code}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


async def docker(*arguments: str, limit: float = COMMAND_SECONDS) -> str:
    """Run a docker command that must succeed."""
    return await do("docker", *arguments, limit=limit)


async def inspect(container: str) -> dict[str, Any]:
    """Return what the engine knows of a container."""
    found: list[dict[str, Any]] = json.loads(await docker("inspect", container))
    return found[0]


async def logs_of(container: str) -> str:
    """Return what a container said, on both streams."""
    done = await run("docker", "logs", container)
    return done.stdout + done.stderr


async def seconds_to(container: str, event: str, limit_seconds: float = 60.0) -> float:
    """Return how long after the container's start its log said that something happened."""

    async def said() -> bool:
        return f'"{event}"' in await logs_of(container)

    await wait_until(said, limit_seconds, f"{event} is in the log", 0.2)
    lines = [json.loads(line) for line in (await logs_of(container)).splitlines()]
    at = next(line["time"] for line in lines if line["event"] == event)
    started = (await inspect(container))["State"]["StartedAt"]  # in nanoseconds
    began = dt.datetime.fromisoformat(started.partition(".")[0] + "+00:00")
    fraction = float("0." + started.partition(".")[2].rstrip("Z"))
    return (dt.datetime.fromisoformat(at) - began).total_seconds() - fraction


@dataclass(slots=True)
class Project:
    """One `docker-compose` project, seen as somebody with that command sees it."""

    compose: tuple[str, ...]
    files: tuple[str, ...]
    name: str
    options: dict[str, str] = field(default_factory=dict)  # the environment of `up`

    @property
    def network(self) -> str:
        """The network that its containers reach each other in."""
        return f"{self.name}_default"

    def volume(self, name: str) -> str:
        """Return a volume's name at the engine."""
        return f"{self.name}_{name}"

    async def run(self, *arguments: str, limit: float = COMMAND_SECONDS) -> str:
        """Run a compose command that must succeed."""
        files = [part for file in self.files for part in ("-f", file)]
        command = (*self.compose, "-p", self.name, *files, *arguments)
        return await do(*command, environ=self._environ(), limit=limit)

    async def up(self, *arguments: str) -> None:
        """`up -d`, and wait until all that have a health check are healthy."""
        await self.run("up", "-d", *arguments)
        await self.wait_healthy()

    async def down(self, *arguments: str) -> None:
        """Stop in order and remove the containers; the volumes stay."""
        await self.run("down", *arguments, limit=COMMAND_SECONDS)

    async def containers(self, service: str = "") -> list[str]:
        """Return the ids of a service's containers, or of all, those that ended too."""
        wanted = [f"label=com.docker.compose.project={self.name}"]
        if service:
            wanted.append(f"label=com.docker.compose.service={service}")
        filters = [part for each in wanted for part in ("--filter", each)]
        return (await docker("ps", "--all", "--quiet", *filters)).split()

    async def container(self, service: str) -> str:
        """Return the id of the one container of a service."""
        (found,) = await self.containers(service)
        return found

    async def exec(self, service: str, *command: str) -> str:
        """Run a command in a service's first container."""
        return await docker("exec", (await self.containers(service))[0], *command)

    async def logs(self) -> str:
        """Return what all containers said."""
        return await self.run("logs", "--no-color")

    async def wait_healthy(self, limit_seconds: float = HEALTHY_SECONDS) -> None:
        """Wait until every container that has a health check is healthy."""

        async def all_healthy() -> bool:
            states = [(await inspect(each))["State"] for each in await self.containers()]
            bad = [state for state in states if state["ExitCode"] and not state["Running"]]
            if bad:
                raise RuntimeError(f"a container ended: {bad}\n{await self.logs()}")
            checked = [state["Health"]["Status"] for state in states if "Health" in state]
            assert set(checked) == {"healthy"}, checked
            return True

        try:
            await wait_until(all_healthy, limit_seconds, f"{self.name} is healthy", interval=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.logs()}") from error

    def _environ(self) -> dict[str, str]:
        kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "XDG_RUNTIME_DIR")
        return {name: os.environ[name] for name in kept if name in os.environ} | self.options


@contextlib.asynccontextmanager
async def project(
    files: Sequence[str], compose: tuple[str, ...] = V2, **options: str
) -> AsyncIterator[Project]:
    """A project of its own for a `with` block; afterwards nothing of it is left."""
    made = Project(compose, tuple(files), f"mailrelay-test-{secrets.token_hex(4)}", options)
    try:
        yield made
    finally:
        await made.run("kill")  # nothing is worth an orderly end any more
        await made.down("--volumes", "--remove-orphans")
        left = [f"label=com.docker.compose.project={made.name}"]
        for kind in ("container", "volume", "network"):
            everything = ("--all",) if kind == "container" else ()
            listed = await docker(kind, "ls", *everything, "--quiet", "--filter", *left)
            assert listed == "", f"{kind}s are left of {made.name}: {listed}"
