"""Each option that the guide names: default, file, environment, command line, in that order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.load import ConfigError, load_config, load_with_sources, options
from mailrelay.config.model import RelayConfig
from mailrelay.config.text import parse_config_text
from mailrelay.config.words import plain
from tests.support.guide import CONFIG_BLOCKS, ENVIRONMENT_BLOCK, GuideOption, guide_options

BY_KEY = {option.key: option for option in options()}
# What the guide's rules across options ask for, so that each option can be tried alone.
FRIENDS: dict[str, dict[str, Any]] = {
    "defaultUsername": {"defaultPassword": "p"},
    "defaultPassword": {"defaultUsername": "u"},
    "forwardUsername": {"forwardPassword": "p"},
    "forwardPassword": {"forwardUsername": "u"},
    "forwardSMTP": {"forwardHost": "upstream.example"},
    "security.requireAuth": {"defaultUsername": "u", "defaultPassword": "p"},
}


def tree(*pairs: tuple[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        section, _, name = key.rpartition(".")
        (made.setdefault(section, {}) if section else made)[name] = value
    return made


def base(option: GuideOption) -> list[tuple[str, Any]]:
    friends = list(FRIENDS.get(option.key, {}).items())
    return (
        friends
        if option.key == "security.requireAuth"
        else [("security.requireAuth", False), *friends]
    )


def write(folder: Path, found: object) -> Path:
    path = folder / "config.json"
    path.write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    return path


def value_of(config: RelayConfig, key: str) -> object:
    value = BY_KEY[key].value_in(config)
    return value.get_secret_value() if BY_KEY[key].is_secret else plain(value)


def text_of(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


ALL = pytest.mark.parametrize("option", guide_options(), ids=lambda option: option.key)


def test_the_guide_names_26_options() -> None:
    assert len({option.key for option in guide_options()}) == 26


@ALL
def test_its_default_holds(option: GuideOption, tmp_path: Path) -> None:
    # AUTH is required by default, and that needs a user.
    friends: list[tuple[str, Any]] = [("security.requireAuth", False)]
    if option.key == "security.requireAuth":
        friends = base(option)
    loaded = load_with_sources(write(tmp_path, tree(*friends)), {})
    assert value_of(loaded.config, option.key) == option.default
    assert loaded.sources[option.key] == "default"


@ALL
def test_the_file_sets_it(option: GuideOption, tmp_path: Path) -> None:
    path = write(tmp_path, tree(*base(option), (option.key, option.other)))
    loaded = load_with_sources(path, {})
    assert value_of(loaded.config, option.key) == option.other
    assert loaded.sources[option.key] == str(path)


@ALL
def test_its_variable_goes_before_the_file(option: GuideOption, tmp_path: Path) -> None:
    path = write(tmp_path, tree(*base(option), (option.key, option.default)))
    loaded = load_with_sources(path, {option.variable: text_of(option.other)})
    assert value_of(loaded.config, option.key) == option.other
    assert loaded.sources[option.key] == option.variable


@ALL
def test_the_command_line_goes_before_its_variable(option: GuideOption, tmp_path: Path) -> None:
    path = write(tmp_path, tree(*base(option), (option.key, option.default)))
    environ = {option.variable: text_of(option.default)}
    override = f"{option.key}={text_of(option.other)}"
    if option.key.endswith("Password"):
        with pytest.raises(ConfigError, match="a secret does not belong on a command line"):
            load_config(path, environ, [override])
        return
    if option.key.endswith("Username"):
        environ = {}
    loaded = load_with_sources(path, environ, [override])
    assert value_of(loaded.config, option.key) == option.other
    assert loaded.sources[option.key] == "command line"


@ALL
def test_a_variable_that_does_not_parse_is_named_with_what_is_allowed(
    option: GuideOption, tmp_path: Path
) -> None:
    if option.kind == "string":
        return  # any text is a string
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, tree(*base(option))), {option.variable: "many"})
    [fault] = error.value.faults
    kind = "true or false" if option.kind == "bool" else "a whole number "
    assert fault.startswith(f"{option.variable}: {option.key}: must be {kind}")
    assert fault.endswith(', is "many"')


@pytest.mark.parametrize("block", CONFIG_BLOCKS)
def test_a_block_of_the_guide_works_unchanged_with_its_comments(block: str, tmp_path: Path) -> None:
    config = load_config(write(tmp_path, block), {"SECURITY_REQUIRE_AUTH": "false"})
    for key, value in parse_config_text(block).items():
        written = value if isinstance(value, dict) else {"": value}
        for name, single in written.items():
            assert value_of(config, f"{key}.{name}" if name else key) == single


def test_the_guides_environment_works_unchanged(tmp_path: Path) -> None:
    environ = dict(line.split("=", 1) for line in ENVIRONMENT_BLOCK.splitlines())
    config = load_config(write(tmp_path, "{}"), environ)
    assert (config.smtp_host, config.smtp_port) == ("0.0.0.0", 25)  # noqa: S104 — read, not bound
    assert config.default_password.get_secret_value() == "password"
    assert (config.forward_smtp, config.forward_host) == (True, "smtp.example.com")
