"""`mailrelay users`: what it writes, and where passwords do not go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from mailrelay.config.users import read_users
from tests.cli.relay_process import COMMAND

SECRET = "correct horse"  # noqa: S105 — of a test


def users(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "users", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, **environ},
    )


def test_users_are_added_listed_changed_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "users"
    added = users("add", "ada", "--file", str(file), stdin=f"{SECRET}\n")
    assert (added.returncode, added.stdout) == (0, "ada: added\n"), added.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    first = read_users(file)["ada"]
    assert PasswordHasher().verify(first, SECRET)
    added = users("add", "grace", "--file", str(file), MAILRELAY_USER_PASSWORD="x")  # noqa: S106
    assert added.returncode == 0, added.stderr
    changed = users("add", "ada", "--file", str(file), stdin=SECRET)  # no line feed
    assert changed.stdout == "ada: new password\n"
    assert read_users(file)["ada"] != first  # another salt
    assert users("list", "--file", str(file)).stdout == "ada\ngrace\n"
    assert users("remove", "ada", "--file", str(file)).stdout == "ada: removed\n"
    again = users("remove", "ada", "--file", str(file))
    assert (again.returncode, again.stderr) == (1, f"ada: no such user in {file}\n")
    assert list(read_users(file)) == ["grace"]
    assert SECRET not in file.read_text() + added.stdout + added.stderr


def test_commands_at_once_lose_nobody(tmp_path: Path) -> None:
    file = tmp_path / "users"
    started = [
        subprocess.Popen(
            [COMMAND, "users", "add", f"user{number}", "--file", str(file)],
            env={**os.environ, "MAILRELAY_USER_PASSWORD": "x"},
            stdout=subprocess.DEVNULL,
        )
        for number in range(6)
    ]
    assert [each.wait(60) for each in started] == [0] * 6
    assert sorted(read_users(file)) == [f"user{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("add", "a:b"), "x", "name 'a:b': a name has no colon"),
        (("add", "ada"), "", "the password is empty"),
        (("add", "ada"), "x" * 513, "at most 512 octets"),
        (("add", "ada", "secret"), "x", "Got unexpected extra argument"),
        (("list",), "", "absent: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: tuple[str, ...], stdin: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "absent"
    done = users(*arguments, "--file", str(file), stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not file.exists()


def test_a_file_with_a_plain_password_is_not_written_to(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"grace:{SECRET}\n")
    file.chmod(0o600)
    done = users("add", "ada", "--file", str(file), stdin="x")
    assert done.returncode == 2
    assert f"{file}, line 1: " in done.stderr
    assert SECRET not in done.stderr
    assert file.read_text() == f"grace:{SECRET}\n"
