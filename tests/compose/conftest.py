"""The images, built once from the Dockerfile as it is."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.compose.docker import V1, V2
from tests.compose.images import ImageError, build_images

table: list[str] = []  # figures, shown at the end of the run


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the first test: no test's time limit is meant for that."""
    wanted = any(item.get_closest_marker("compose") for item in session.items)
    if wanted and not session.config.option.collectonly:
        try:
            table.extend(build_images())
        except ImageError as error:
            pytest.exit(str(error), returncode=1)


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures."""
    if table:
        terminalreporter.section("images and containers")
        for line in table:
            terminalreporter.write_line(line)
