"""What the command says to bad input: one line, exit code 2, no traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.relay_process import run_command
from tests.support.ports import free_port


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bogus"], "mailrelay: No such option: --bogus"),
        (["rum"], "mailrelay: No such command 'rum'. Did you mean 'run'?"),
        (["run", "--bogus"], "mailrelay: No such option: --bogus"),
        (["run", "extra"], "mailrelay: Got unexpected extra argument(s) (extra)"),
        (["run", "--log-format", "xml"], "'xml' is not one of 'json', 'text'"),
        (["run", "--config"], "requires an argument"),
        (["send", "--timeout", "soon"], "Invalid value for '--timeout'"),
        (["send", "--to", "no address"], "--to: 'no address' is no address"),
        (["send", "--to", "a@b\r\nRCPT TO:<c@d>"], "is no address"),
        (["queue", "ensure"], "mailrelay: Missing option"),
        (["config", "check"], "mailrelay: Missing argument"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    if arguments[0] == "send":
        arguments = [*arguments, "--data-dir", str(_relay_that_is_not(tmp_path))]
    done = run_command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


CONFIG_FAULTS = [
    (None, "is a folder; give a configuration file"),
    ("", "line 1, column 1"),
    ("[]", "must be a JSON object"),
    ('{"smtpPort": 2525,}', "remove the comma before the closing bracket"),
    ('{"smtpPort": "2525"}', 'smtpPort: must be a whole number from 1 to 65535, is "2525"'),
    ('{"smtpPort": 70000}', "smtpPort: "),
    ('{"smtpPrt": 25}', "unknown key smtpPrt; did you mean smtpPort?"),
    ("{}", "security.requireAuth is true and there is no user"),
    (
        '{"defaultUsername": "u", "defaultPassword": "p", "queue": {"storeBytes": 1000}}',
        "queue.storeBytes: must be 0 or at least",
    ),
]


@pytest.mark.parametrize(("text", "words"), CONFIG_FAULTS)
def test_a_faulty_configuration_starts_nothing(
    text: str | None, words: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    if text is None:
        config.mkdir()
    else:
        config.write_text(text)
    data = tmp_path / "data"
    done = run_command("run", "--config", str(config), "--data-dir", str(data))
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (data / "nats" / "nats.conf").exists()


def test_every_fault_has_its_line(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"smtpPort": 0, "workerCount": 0, "nonsense": 1}')
    done = run_command("config", "check", str(config))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3


def test_a_wrong_variable_is_named() -> None:
    done = run_command("run", env={**os.environ, "SMTP_PORT": "many"})
    assert done.returncode == 2
    assert done.stderr.startswith("SMTP_PORT: ")
    assert done.stderr.count("\n") == 1


def test_a_good_configuration_is_ok(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        '{"security": {"requireAuth": false}, "rateLimits": {"enabled": true /* now */}}'
    )
    done = run_command("config", "check", str(config))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "ok"


def test_a_nats_server_that_is_too_old_starts_nothing(tmp_path: Path) -> None:
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.10.27\n")
    old.chmod(0o755)
    data = tmp_path / "data"
    done = run_command(
        "run",
        "--data-dir",
        str(data),
        env={**os.environ, "MAILRELAY_NATS_SERVER": str(old), "SMTP_PORT": str(free_port())},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "2.10.27, older than 2.15.1" in done.stderr
    assert not (data / "nats" / "nats.conf").exists()


def test_send_without_a_relay_says_so(tmp_path: Path) -> None:
    done = run_command("send", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"no relay is running on data folder {tmp_path}\n"


def test_send_to_a_relay_that_was_killed_says_so(tmp_path: Path) -> None:
    done = run_command("send", "--data-dir", str(_relay_that_is_not(tmp_path)))
    assert done.returncode == 2
    assert f"no relay is running on data folder {tmp_path}" in done.stderr


def test_no_command_shows_the_help() -> None:
    done = run_command()
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("run", "send", "queue", "config", "version"))


def test_the_version_is_a_version() -> None:
    done: subprocess.CompletedProcess[str] = run_command("version")
    assert done.returncode == 0
    assert done.stdout.strip().count(".") == 2


def _relay_that_is_not(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "relay.json").write_text(
        '{"pid": 1, "started_at": 1, "smtp": ["127.0.0.1:9"], "http": null,'
        '"nats": "nats://127.0.0.1:9", "credentials": "", "upstream": null}'
    )
    return folder
