from __future__ import annotations

from pathlib import Path

import pytest

from mailrelay.config.token import read_token
from mailrelay.config.users import read_users
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.first_secrets import USER, ensure_token, ensure_user


def test_a_user_is_made_once_and_the_password_fits_its_hash(tmp_path: Path) -> None:
    users = tmp_path / "secrets" / "users"
    password_file = ensure_user(users)
    password = password_file.read_text()
    assert len(password.strip()) == 32
    assert password.strip() not in users.read_text()
    assert list(read_users(users)) == [USER]
    assert ensure_user(users) == password_file
    assert password_file.read_text() == password


def test_users_that_are_there_stay_and_get_no_other(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("# somebody's\n")
    assert not ensure_user(users).exists()
    assert users.read_text() == "# somebody's\n"


def test_a_token_is_made_once_and_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "http-token"
    ensure_token(path)
    text = path.read_text()
    token = read_token(path)
    assert token is not None
    assert token.matches(text.strip())
    ensure_token(path)
    assert path.read_text() == text


def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    users, token = tmp_path / "secrets" / "users", tmp_path / "secrets" / "http-token"
    made = [users, ensure_user(users), token]
    ensure_token(token)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert users.parent.stat().st_mode & 0o777 == 0o700


def test_where_they_cannot_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"http-token cannot be made: .*data volume"):
        ensure_token(tmp_path / "file" / "http-token")
    with pytest.raises(BadInputError, match=r"users cannot be made: .*data volume"):
        ensure_user(tmp_path / "file" / "users")
