"""What is wrong with what a container is given: it says so, ends with 2, and is never healthy."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compose.docker import docker, inspect, logs_of
from tests.support.wait import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(120)]

IMAGE = "mailrelay"
_ENDED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container that cannot work ended."""

    code: int
    said: str
    was_healthy: bool


@contextlib.asynccontextmanager
async def container(*options: str) -> AsyncIterator[str]:
    name = f"mailrelay-bad-{secrets.token_hex(4)}"
    await docker("run", "--detach", "--name", name, "--health-interval", "1s", *options, IMAGE)
    try:
        yield name
    finally:
        await docker("rm", "--force", "--volumes", name)


async def ended(*options: str) -> Ended:
    """Run the image and see it end."""
    async with container(*options) as name:
        await wait_ended(name)
        state: dict[str, Any] = (await inspect(name))["State"]
        said = await logs_of(name)
        checks = state["Health"]["Log"] or ()
        healthy = any(check["ExitCode"] == 0 for check in checks)
        return Ended(state["ExitCode"], said, healthy)


async def wait_ended(name: str) -> None:
    async def has_ended() -> bool:
        return not (await inspect(name))["State"]["Running"]

    await wait_until(has_ended, _ENDED_SECONDS, "the container ends")


def says_why(outcome: Ended, *words: str) -> None:
    assert (outcome.code, outcome.was_healthy) == (2, False), outcome
    for each in words:
        assert each in outcome.said, outcome.said


async def test_a_mounted_configuration_that_is_missing_on_the_host(tmp_path: Path) -> None:
    # The engine makes a folder where the file should have been.
    outcome = await ended("--volume", f"{tmp_path / 'missing.json'}:/app/config.json:ro")
    says_why(outcome, "/app/config.json is a folder", "missing where it was mounted from")


async def test_a_mounted_configuration_that_it_may_not_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    file.chmod(0o600)  # the owner is whoever runs the tests, not the container's user
    outcome = await ended("--volume", f"{file}:/app/config.json:ro")
    says_why(outcome, "cannot read /app/config.json: Permission denied", "this is user 10001")


async def test_a_mounted_configuration_with_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"smtpPort": "25"}')
    file.chmod(0o644)
    outcome = await ended("--volume", f"{file}:/app/config.json:ro")
    says_why(outcome, 'smtpPort: must be a whole number from 1 to 65535, is "25"')


async def test_a_data_folder_that_belongs_to_another_user(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    outcome = await ended("--volume", f"{folder}:/app/data")
    says_why(outcome, "/app/data", f"belongs to user {folder.stat().st_uid}", "chown -R 10001")


async def test_an_emails_folder_that_belongs_to_another_user(tmp_path: Path) -> None:
    folder = tmp_path / "emails"
    folder.mkdir(mode=0o755)
    outcome = await ended("--volume", f"{folder}:/app/emails")
    says_why(outcome, "/app/emails is not writable", "chown -R 10001")


async def test_a_data_volume_that_is_read_only() -> None:
    volume = f"mailrelay-bad-{secrets.token_hex(4)}"
    try:
        outcome = await ended("--volume", f"{volume}:/app/data:ro")
    finally:
        await docker("volume", "rm", "--force", volume)
    says_why(outcome, "/app/data", "mounted read-only")


async def test_ports_that_contradict_each_other() -> None:
    outcome = await ended("--env", "SMTP_PORT=8025")
    says_why(outcome, "smtpPort and healthCheckPort are both 8025")


async def test_a_port_that_is_in_use() -> None:
    async with container() as first:
        # In the first one's network, where its ports are taken once it listens.
        async def listens() -> bool:
            return "ingress.ready" in await logs_of(first)

        await wait_until(listens, _ENDED_SECONDS, "the first relay listens")
        outcome = await ended("--network", f"container:{first}")
    says_why(outcome, "port 0.0.0.0:2525 (SMTP) is taken", "set smtpPort")


async def test_local_clients_only_where_nobody_is_local() -> None:
    outcome = await ended("--env", "SECURITY_ALLOW_LOCAL_ONLY=true")
    says_why(outcome, "nobody is local", "set allowedNetworks")


async def test_neither_auth_nor_a_network_is_no_relay_for_a_container() -> None:
    outcome = await ended("--env", "SECURITY_REQUIRE_AUTH=false")
    says_why(outcome, "whoever reaches the port could send")
