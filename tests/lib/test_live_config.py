"""A changed configuration, taken over while the process runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import LogCapture

from mailrelay.config.live import LiveConfig
from mailrelay.config.load import ConfigError, load_config
from mailrelay.config.model import RelayConfig
from mailrelay.config.token import Token, read_token
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger
from tests.support.wait import wait_until

START: dict[str, Any] = {
    "security": {"requireAuth": False},
    "forwardUsername": "u",
    "forwardPassword": "first password",
    "smtpPort": 2525,
}


class Lived:
    """A configuration file, and what a process makes of it."""

    def __init__(self, folder: Path, log: Logger) -> None:
        self.file = folder / "config.json"
        self.write()
        self.live = LiveConfig(
            load_config(self.file, {}),
            lambda: load_config(self.file, {}),
            file=self.file,
            log=log,
            tells_restarts=True,
        )
        self.taken: list[RelayConfig] = []

    def write(self, **changes: Any) -> None:  # noqa: ANN401 — JSON
        self.file.write_text(json.dumps(START | changes))


@pytest.fixture
def lived(tmp_path: Path, log: Logger) -> Lived:
    return Lived(tmp_path, log)


@pytest.fixture
async def running(lived: Lived) -> AsyncIterator[Lived]:
    task = asyncio.ensure_future(lived.live.run())
    yield lived
    await end_tasks([task])


def told(lines: LogCapture, event: str) -> list[dict[str, Any]]:
    return [dict(line) for line in lines.entries if line["event"] == event]


async def test_a_changed_file_is_noticed_and_told_with_old_and_new_value(
    running: Lived, lines: LogCapture
) -> None:
    running.live.uses(running.taken.append, "batchSize", "rateLimits")
    running.write(batchSize=7, rateLimits={"maxPerHour": 9})
    await wait_until(lambda: bool(running.taken), 10, "the change is taken over")
    assert running.taken[-1].batch_size == 7
    assert running.live.config.rate_limits.max_per_hour == 9
    changes = told(lines, "config.changed")
    assert [(line["key"], line["old"], line["new"]) for line in changes] == [
        ("batchSize", "20", "7"),
        ("rateLimits.maxPerHour", "500", "9"),
    ]


async def test_what_changed_before_anybody_watched_is_taken_too(lived: Lived) -> None:
    lived.live.uses(lived.taken.append, "batchSize")
    lived.write(batchSize=7)
    task = asyncio.ensure_future(lived.live.run())
    await wait_until(lambda: bool(lived.taken), 1, "the change is taken over")
    await end_tasks([task])


def test_a_part_is_asked_only_when_its_options_change(lived: Lived) -> None:
    lived.live.uses(lived.taken.append, "retry", "processingTimeout")
    lived.write(batchSize=7)
    lived.live.reload()
    assert lived.taken == []
    lived.write(batchSize=7, retry={"maxAttempts": 3})
    lived.live.reload()
    assert [config.retry.max_attempts for config in lived.taken] == [3]


def test_what_needs_a_restart_is_named_once_and_stays_as_it_was(
    lived: Lived, lines: LogCapture
) -> None:
    lived.live.uses(lived.taken.append, "batchSize", "smtpPort")
    lived.write(smtpPort=2600, batchSize=7)
    lived.live.reload()
    lived.live.reload()
    assert lived.live.config.smtp_port == 2525
    assert lived.taken[-1].smtp_port == 2525
    [line] = told(lines, "config.needs_restart")
    assert (line["key"], line["old"], line["new"]) == ("smtpPort", "2525", "2600")
    lived.write(batchSize=7)
    lived.live.reload()
    lived.write(smtpPort=2600, batchSize=7)
    lived.live.reload()
    assert len(told(lines, "config.needs_restart")) == 2


@pytest.mark.parametrize("text", ['{"batchSize": 7,}', '{"batchSize": 0}', "", '{"bathSize": 3}'])
def test_a_faulty_file_leaves_the_old_values_in_force_until_it_is_mended(
    text: str, lived: Lived, lines: LogCapture
) -> None:
    faults: list[str] = []
    lived.live.uses(lived.taken.append, "batchSize")
    lived.live.on_fault_change(lambda: faults.append(lived.live.fault))
    lived.file.write_text(text)
    lived.live.reload()
    lived.live.reload()
    assert lived.live.config.batch_size == 20
    assert lived.taken == []
    assert str(lived.file) in lived.live.fault
    [line] = told(lines, "config.refused")
    assert line["reason"] == lived.live.fault
    lived.write(batchSize=7)
    lived.live.reload()
    assert lived.live.fault == ""
    assert lived.live.config.batch_size == 7
    assert len(told(lines, "config.mended")) == 1
    assert [bool(fault) for fault in faults] == [True, False]


def test_a_file_that_is_gone_is_a_fault(lived: Lived) -> None:
    lived.file.unlink()
    lived.live.reload()
    assert "No such file" in lived.live.fault


def test_one_part_that_cannot_use_new_values_keeps_all_from_taking_them(lived: Lived) -> None:
    def refuse(_: RelayConfig) -> Callable[[], None]:
        raise ConfigError(["forwardCAFile: cannot be read"])

    lived.live.uses(lived.taken.append, "batchSize")
    lived.live.prepares(refuse, "forwardCAFile")
    lived.write(batchSize=7, forwardCAFile="none.pem")
    lived.live.reload()
    assert lived.taken == []
    assert lived.live.config.batch_size == 20
    assert lived.live.fault == "forwardCAFile: cannot be read"


def test_a_secret_that_changes_is_named_and_not_shown(lived: Lived, lines: LogCapture) -> None:
    lived.live.uses(lived.taken.append, "forwardPassword")
    lived.write(forwardPassword="second password")
    lived.live.reload()
    assert lived.taken[-1].forward_password.get_secret_value() == "second password"
    assert [line["key"] for line in told(lines, "config.changed")] == ["forwardPassword"]
    assert "password" not in str(lines.entries).replace("forwardPassword", "")


async def test_a_file_that_a_part_names_is_followed_and_told_when_it_cannot_be_used(
    lived: Lived, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text("a" * 32)
    tokens: list[Token | None] = []

    def prepare(config: RelayConfig) -> Callable[[], None]:
        token = read_token(config.http.token_file)
        return lambda: tokens.append(token)

    lived.live.prepares(prepare, "http", files=lambda config: [config.http.token_file])
    lived.write(http={"tokenFile": str(file)})
    task = asyncio.ensure_future(lived.live.run())
    await wait_until(lambda: len(tokens) == 1, 5, "the file is read")
    file.write_text("short")
    await wait_until(lambda: "32 or more" in lived.live.fault, 10, "the fault is told")
    lived.live.reload()  # the configuration has no fault, the file still has
    assert lived.live.fault
    file.write_text("b" * 32)
    await wait_until(lambda: lived.live.fault == "", 10, "the fault is gone")
    found = tokens[-1]
    assert found is not None
    assert found.matches("b" * 32)
    assert not found.matches("a" * 32)
    await end_tasks([task])


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"too short", "must hold one token of 32 or more characters"),
        (b"a" * 20 + b" " + b"b" * 20, "must hold one token"),
        (b"\xff" * 40, "other characters than ASCII"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_one_line_without_its_content(
    octets: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_bytes(octets)
    with pytest.raises(ConfigError, match=words) as error:
        read_token(path)
    [fault] = error.value.faults
    assert fault.startswith("http.tokenFile: ")
    assert octets.decode("latin-1") not in fault
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "none")


def test_a_token_file_that_others_can_read_is_not_used_and_a_path_with_nul_is_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o644)
    path.write_text("a" * 64)
    with pytest.raises(ConfigError, match=r"http\.tokenFile: .*mode 0644\): chmod 600"):
        read_token(path)
    with pytest.raises(ConfigError, match=r"http\.tokenFile: .* is no path: it has a NUL"):
        read_token(Path("a\0b"))
