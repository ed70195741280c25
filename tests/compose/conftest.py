"""The images, built once from the Dockerfile as it is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.compose.base_image import ensure_base_image
from tests.compose.docker import ROOT, V1, V2, run

TARGETS = {
    "all-in-one": "mailrelay",
    "ingress": "mailrelay-ingress",
    "sender": "mailrelay-sender",
    "monitor": "mailrelay-monitor",
    "tools": "mailrelay-tools",
    "nats": "mailrelay-nats",
    "operator": "mailrelay-operator",
}
_BUILD_SECONDS = 900.0  # measured 215 s with nothing cached, on 2 cores with a load of 10
# What pip is told here, and what the build calls it.
_INDEX = {"index-url": ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")}

table: list[str] = []  # figures, shown at the end of the run


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the first test: no test's time limit is meant for that."""
    wanted = any(item.get_closest_marker("compose") for item in session.items)
    if wanted and not session.config.option.collectonly:
        _build()


def _build() -> None:
    """Build each target, by the name that the compose files give its image."""
    began = time.monotonic()
    try:
        how = ensure_base_image(ROOT / "Dockerfile")
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        pytest.exit(f"the base image cannot be had: {error}", returncode=1)
    based = time.monotonic()
    for target, image in TARGETS.items():
        # The machine's own network, because that is how this machine reaches the indexes.
        built = asyncio.run(
            run(
                *("docker", "buildx", "build", "--network", "host", "--load"),
                *("--progress", "plain", "--target", target, "--tag", image),
                *(part for each in _build_arguments() for part in ("--build-arg", each)),
                *("--build-arg", f"REVISION={_revision()}", "."),
                limit=_BUILD_SECONDS,
            )
        )
        if built.code != 0:
            last = "\n".join((built.stdout + built.stderr).splitlines()[-40:])
            pytest.exit(f"{target} cannot be built:\n{last}", returncode=1)
    table.append(f"base image {how.partition(',')[0]} in {based - began:.0f} s")
    table.append(f"images built in {time.monotonic() - based:.0f} s")


@pytest.fixture(params=[V1, V2], ids=["v1", "v2"])
def compose(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Both generations of the command, as far as this machine has them."""
    command: tuple[str, ...] = request.param
    if command == V2 or _has_v1():
        return command
    if "MAILRELAY_NEEDS_COMPOSE_V1" in os.environ:
        pytest.fail("docker-compose v1 is not on this machine")
    pytest.skip("docker-compose v1 is not on this machine; .ci/run has it")


@pytest.fixture
def older_compose() -> tuple[str, ...]:
    """The oldest generation that this machine has."""
    if not _has_v1() and "MAILRELAY_NEEDS_COMPOSE_V1" in os.environ:
        pytest.fail("docker-compose v1 is not on this machine")
    return V1 if _has_v1() else V2


def _has_v1() -> bool:
    try:
        asked = subprocess.run(
            [*V1, "version", "--short"], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return asked.stdout.startswith("1.")


def _revision() -> str:
    asked = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        asked, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def _build_arguments() -> Iterator[str]:
    """Hand on where packages come from, as the Makefile does for uv."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    for line in said.splitlines():
        key, _, value = line.partition("=")
        for name in _INDEX.get(key.rpartition(".")[2], ()):
            yield f"{name}={value.strip(chr(39))}"
    if "GOPROXY" in os.environ:
        yield f"GOPROXY={os.environ['GOPROXY']}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures."""
    if table:
        terminalreporter.section("images and containers")
        for line in table:
            terminalreporter.write_line(line)
