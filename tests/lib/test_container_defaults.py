"""What holds in a container instead: nobody has rights by an address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.defaults import CONTAINER, TOKEN_FILE, USERS_FILE
from mailrelay.config.load import ConfigError, Loaded, load_with_sources, options

CONTAINED = {"MAILRELAY_CONTAINER": "1"}


def loaded(folder: Path, found: dict[str, Any] | None, **environ: str) -> Loaded:
    path = None
    if found is not None:
        path = folder / "config.json"
        path.write_text(json.dumps(found))
    return load_with_sources(path, CONTAINED | environ)


def fault(folder: Path, found: dict[str, Any] | None, **environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        loaded(folder, found, **environ)
    (only,) = raised.value.faults
    return only


@pytest.mark.parametrize("found", [None, {}], ids=["no file", "an empty file"])
def test_auth_is_asked_of_everybody_and_loopback_is_nothing(
    tmp_path: Path, found: dict[str, Any] | None
) -> None:
    config = loaded(tmp_path, found).config
    assert config.security.require_auth
    assert not config.security.trust_loopback
    assert not config.security.allow_plaintext_auth
    assert config.tls.self_signed
    assert config.security.users_file == Path(USERS_FILE)
    assert config.http.token_file == Path(TOKEN_FILE)
    assert (config.smtp_host, config.smtp_port) == ("0.0.0.0", 2525)  # noqa: S104 — read
    assert not config.forward_smtp


def test_every_key_of_the_table_is_an_option_and_is_shown_as_its_place(tmp_path: Path) -> None:
    sources = loaded(tmp_path, {}).sources
    keys = [option.key for option in options() if sources[option.key] == CONTAINER.name]
    assert keys == [
        "smtpHost",
        "smtpPort",
        "security.allowLocalOnly",
        "security.trustLoopback",
        "security.usersFile",
        "tls.selfSigned",
        "http.listen",
        "http.allowedNetworks",
        "http.tokenFile",
    ]
    known = {option.key for option in options()}
    assert {key for keys in CONTAINER.steps_back.values() for key in keys} <= known
    assert set(CONTAINER.steps_back) <= set(keys)


def test_file_and_environment_go_before_the_table(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"smtpPort": 25}, HTTP_LISTEN="127.0.0.1")
    assert (found.config.smtp_port, found.config.http.listen) == (25, ("127.0.0.1",))


def test_a_default_that_what_is_set_would_contradict_steps_back(tmp_path: Path) -> None:
    chosen = {
        "defaultUsername": "ada",
        "defaultPassword": "p",
        "tls": {"certFile": "cert.pem", "keyFile": "key.pem"},
        "security": {"allowedNetworks": ["10.0.0.0/8"]},
    }
    config = loaded(tmp_path, chosen).config
    assert config.security.users_file is None
    assert not config.tls.self_signed
    assert config.security.allow_local_only


def test_outside_a_container_nothing_of_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"security": {"requireAuth": false}}')
    for environ in ({}, {"MAILRELAY_CONTAINER": "0"}, {"MAILRELAY_CONTAINER": ""}):
        found = load_with_sources(path, environ)
        assert found.config.security.trust_loopback
        assert CONTAINER.name not in found.sources.values()


def test_local_only_is_refused_where_nobody_is_local(tmp_path: Path) -> None:
    assert "nobody is local" in fault(tmp_path, {"security": {"allowLocalOnly": True}})


def test_an_open_relay_is_refused(tmp_path: Path) -> None:
    assert "whoever reaches the port" in fault(tmp_path, None, SECURITY_REQUIRE_AUTH="false")


def test_networks_may_send_without_auth_when_they_are_named(tmp_path: Path) -> None:
    chosen = {"security": {"requireAuth": False, "allowedNetworks": ["10.0.0.0/8"]}}
    assert loaded(tmp_path, chosen).config.security.allow_local_only


def test_what_says_that_it_is_a_container_is_1_or_0(tmp_path: Path) -> None:
    assert "MAILRELAY_CONTAINER: must be 1" in fault(tmp_path, {}, MAILRELAY_CONTAINER="yes")
