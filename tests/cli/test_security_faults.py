"""Files that the configuration names and that cannot be used: one line each, exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.users import Line, write_lines
from tests.cli.relay_process import run_command
from tests.support.certificates import Certificates, make_certificates
from tests.support.ports import free_port

OPEN = {"requireAuth": False}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def check(folder: Path, config: dict[str, Any]) -> list[str]:
    """What `config check` and `run` say, which must be the same."""
    file = folder / "config.json"
    file.write_text(json.dumps({"smtpPort": free_port()} | config))
    said = []
    for arguments in (
        ("config", "check", str(file)),
        ("run", "--config", str(file), "--data-dir", str(folder / "data")),
    ):
        done = run_command(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        said.append(done.stderr.splitlines())
    assert said[0] == said[1]
    assert not (folder / "data").exists()
    return said[0]


def source(folder: Path) -> str:
    """Where the values of `check` came from, as each line begins."""
    return f"{folder / 'config.json'}: "


def test_a_certificate_that_cannot_be_used_is_named(
    tmp_path: Path, certificates: Certificates
) -> None:
    good, other = certificates.server, certificates.expired
    pairs = {
        (str(good.certificate), str(other.key)): (
            f"tls.keyFile: {other.key} is not the key of the certificate"
        ),
        ("absent.pem", str(good.key)): (
            "tls.certFile: absent.pem cannot be read: No such file or directory"
        ),
        (str(good.key), str(good.key)): (
            f"tls.certFile: {good.key} has no PEM certificate that can be read"
        ),
    }
    for (certificate, key), words in pairs.items():
        tls = {"certFile": certificate, "keyFile": key}
        assert check(tmp_path, {"security": OPEN, "tls": tls}) == [f"{source(tmp_path)}{words}"]


def test_users_that_cannot_be_used_are_named_with_their_line(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("# of the shop\nada:hunter2\n")
    users.chmod(0o600)
    config = {"security": {"requireAuth": True, "usersFile": str(users)}}
    (fault,) = check(tmp_path, config)
    assert fault.startswith(f"{source(tmp_path)}security.usersFile: {users}, line 2: ")
    assert "may be a password" in fault
    assert "hunter2" not in fault
    users.chmod(0o644)
    (fault,) = check(tmp_path, config)
    words = f"{users}: others can read or write it (mode 0644): chmod 600"
    assert fault == f"{source(tmp_path)}security.usersFile: {words}"


def test_a_file_without_users_is_nobody_who_could_authenticate(tmp_path: Path) -> None:
    users = tmp_path / "users"
    write_lines(users, [Line("# nobody yet", "")])
    (fault,) = check(tmp_path, {"security": {"requireAuth": True, "usersFile": str(users)}})
    words = f"security.usersFile: {users} has no user, and security.requireAuth"
    assert fault.startswith(f"{source(tmp_path)}{words}")
    assert "mailrelay users add" in fault


def test_every_file_has_its_line(tmp_path: Path) -> None:
    config = {
        "security": {"requireAuth": True, "usersFile": "absent"},
        "tls": {"certFile": "absent.pem", "keyFile": "absent.pem"},
    }
    assert len(check(tmp_path, config)) == 2
