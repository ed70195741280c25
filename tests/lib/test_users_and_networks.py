"""The file of users, networks, and what the configuration says of both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mailrelay.config.load import ConfigError, load_config
from mailrelay.config.networks import is_in, parse_network
from mailrelay.config.users import (
    MAX_FILE_BYTES,
    Line,
    hash_password,
    name_fault,
    password_fault,
    read_lines,
    read_users,
    write_lines,
)

# Of "x"; a constant, so that all of pytest's processes find the same tests.
GOOD = (
    "$argon2id$v=19$m=19456,t=2,p=1"
    "$cG6UbmxbKdPOZ1l22hzvrw$UpxIzjnrexMnlB4lU1HR1O1VxWO30xR3gulWNifsDws"
)
SALT, DIGEST = GOOD.split("$")[4:]


def test_a_new_hash_is_one_that_the_file_may_have(tmp_path: Path) -> None:
    assert read_users(written(tmp_path, f"ada:{hash_password('x')}\n"))


def written(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "users"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_comments_and_users_are_read_and_written_again(tmp_path: Path) -> None:
    path = written(tmp_path, f"# of the shop\n\nada:{GOOD}\n  grace:{GOOD}  \n")
    assert read_users(path) == {"ada": GOOD, "grace": GOOD}
    lines = read_lines(path)
    write_lines(path, [*lines, Line(f"ü:{GOOD}", "ü")])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("# of the shop\n\nada:")
    assert list(read_users(path)) == ["ada", "grace", "ü"]
    assert [each.name for each in tmp_path.iterdir()] == ["users"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ada:hunter2", "so it may be a password"),
        ("ada", "so it may be a password"),
        ("hunter2", "so it may be a password"),
        ("ada:$2b$12$abcdefghijklmnopqrstuv", "so it may be a password"),
        (f"ada:{GOOD[:-30]}", "damaged"),
        (f"ada:{GOOD} ada", "damaged"),
        (f"ada:$argon2id$v=16$m=19456,t=2,p=1${SALT}${DIGEST}", "damaged"),
        (f"ada:$argon2id$v=19$m=19456,t=999,p=1${SALT}${DIGEST}", "t from 1 to 16"),
        (f"ada:$argon2id$v=19$m=19456,t=2,p=0${SALT}${DIGEST}", "p from 1 to 8"),
        (f"ada:$argon2id$v=19$m=4000000,t=2,p=1${SALT}${DIGEST}", "asks for 4000000 KiB"),
        (f":{GOOD}", "the name is empty"),
        (f"a\tb:{GOOD}", "control character"),
        (f"{'a' * 256}:{GOOD}", "at most 255 octets"),
    ],
)
def test_a_bad_line_is_named_and_not_repeated(line: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"# first\nok:{GOOD}\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        read_users(path)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}, line 3: ")
    assert words in fault
    assert "hunter2" not in fault
    assert DIGEST not in fault


def test_each_bad_line_has_its_fault_and_a_user_stands_once(tmp_path: Path) -> None:
    path = written(tmp_path, f"ada:{GOOD}\nada:{GOOD}\nx:y\n")
    with pytest.raises(ConfigError) as caught:
        read_users(path)
    assert len(caught.value.faults) == 2
    assert "line 2: the user of line 1 stands here again" in caught.value.faults[0]


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o604])
def test_a_file_that_others_can_use_is_refused(mode: int, tmp_path: Path) -> None:
    path = written(tmp_path, f"ada:{GOOD}\n", mode)
    with pytest.raises(ConfigError, match=rf"users: others can .* \(mode {mode:04o}\): chmod 600"):
        read_users(path)
    path.chmod(0o640)  # a group of one's own is how Kubernetes mounts secrets
    assert read_users(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent: cannot be read: No such file"):
        read_users(tmp_path / "absent")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_users(tmp_path)
    with pytest.raises(ConfigError, match=r"users, line 2: is not UTF-8 text"):
        read_users(written(tmp_path, b"#\n\xff:x\n"))
    with pytest.raises(ConfigError, match="has more than"):
        read_users(written(tmp_path, b"#" * (MAX_FILE_BYTES + 1)))


def test_names_and_passwords_that_no_client_could_give_are_refused() -> None:
    assert name_fault("ada@example.org") == ""
    assert name_fault("ada lovelace") == ""
    assert [bool(name_fault(each)) for each in ("", " a", "#a", "a:b", "a\n")] == [True] * 5
    assert password_fault("x y ü") == ""
    assert [bool(password_fault(each)) for each in ("", "a\0b", "ü" * 257)] == [True] * 3


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_a_network_is_read(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize("text", ["192.0.2.1/24", "192.0.2.0/33", "", "localhost", "1/2/3", "*"])
def test_what_is_no_network_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text)) + " is no network: "):
        parse_network(text)


def test_all_of_ipv6_does_not_hold_ipv4() -> None:
    assert not is_in("::ffff:192.0.2.1", [parse_network("::/0")])
    assert is_in("2001:db8::1%eth0", [parse_network("::/0")])


# --- In the configuration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"security": {"allowedNetworks": ["192.0.2.1/24"]}}',
            "security.allowedNetworks: '192.0.2.1/24' is no network: bits are set behind",
        ),
        (
            '{"security": {"allowedNetworks": "192.0.2.0/24"}}',
            'security.allowedNetworks: must be a list of strings, is "192.0.2.0/24"',
        ),
        (
            '{"security": {"allowedNetworks": [1]}}',
            "security.allowedNetworks: must be a list of strings, is [1]",
        ),
        (
            '{"security": {"allowLocalOnly": false, "allowedNetworks": ["192.0.2.0/24"]}}',
            "allowedNetworks limits nothing while allowLocalOnly is false",
        ),
        ('{"tls": {"smtpsPort": 65536}}', "tls.smtpsPort: must be a whole number from 0 to 65535"),
        ('{"tls": {"smtpsPort": 465}}', "smtpsPort needs a certificate"),
        ('{"emails": {"keepSeconds": 0}}', "emails.keepSeconds: must be a number greater than 0"),
        ('{"emails": {"maxBytes": 10}}', "emails.maxBytes: must be a whole number of at least"),
        ("{}", "set defaultUsername and defaultPassword, or security.usersFile, or set"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert any(words in fault for fault in caught.value.faults), caught.value.faults


def test_a_list_comes_from_a_variable_with_commas() -> None:
    variables = {"SECURITY_ALLOWED_NETWORKS": "10.0.0.0/8, 2001:db8::/32"}
    config = load_config(None, variables)
    assert config.security.allowed_networks == ("10.0.0.0/8", "2001:db8::/32")
    assert load_config(None, {"SECURITY_ALLOWED_NETWORKS": ""}).security.allowed_networks == ()
    with pytest.raises(ConfigError, match=r"^SECURITY_ALLOWED_NETWORKS: .*'x' is no network"):
        load_config(None, {"SECURITY_ALLOWED_NETWORKS": "x"})
