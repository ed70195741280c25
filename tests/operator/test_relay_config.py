from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.defaults import CONTAINER_VARIABLE
from mailrelay.config.load import load_with_sources, options
from mailrelay.config.model import RelayConfig
from mailrelay.config.text import parse_config_text
from mailrelay_operator.resource.option import option_of, option_values
from mailrelay_operator.resource.relay import ResourceError, read_relay
from mailrelay_operator.resource.relay_config import relay_config
from mailrelay_operator.resource.set_by_operator import SET_BY_OPERATOR
from mailrelay_operator.resource.spec import Spec
from tests.operator.fields import FIELDS
from tests.operator.resources import FULL, MINIMAL, changed, resource

# Whatever a value holds, it stays one value.
HOSTILE = [
    "quoted \"twice\" and 'once'",
    "line one\nline two\r\nline three",
    "{{ .Values.secret }} {% raw %} ${HOME} $(reboot) `reboot` %(name)s {0}",
    "- a: &anchor !!python/object:os.system\n  b: *anchor",
    "// no comment /* nor this */ # nor that",
    "\u202egnp.exe \U0001f4e8 \u2028",
    "\\n \\u0000 \\\\",
    ", null, true]}",
]


def config_of(spec: dict[str, Any]) -> dict[str, Any]:
    return relay_config(read_relay(resource(spec)))


def loaded(config: dict[str, Any]) -> RelayConfig:
    """What the relay reads of the file's text."""
    return RelayConfig.model_validate(parse_config_text(json.dumps(config)))


def leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, tree


@pytest.mark.parametrize("spec", [MINIMAL, FULL, {}], ids=["minimal", "full", "capture"])
def test_the_relay_takes_the_configuration_of_a_resource(spec: dict[str, Any]) -> None:
    assert loaded(config_of(spec)).smtp_port == 2525


def test_nothing_that_a_resource_says_is_left_to_the_defaults_of_a_container() -> None:
    said = {path for path, _ in leaves(config_of({}))}
    left = {found.key for found in options()} - said
    assert left == {
        *(key for key in SET_BY_OPERATOR if key.startswith(("forward", "default"))),
        "queue.prefix",  # the relay's own default
        "routes",
    }


def test_a_minimal_resource_has_one_route_and_asks_for_a_password() -> None:
    config = loaded(config_of(MINIMAL))
    (route,) = config.routes
    (host,) = route.smart_hosts
    assert (route.name, route.recipient_domains) == ("everything", None)
    assert (host.host, host.port, host.tls, host.verify_tls) == (
        "smtp.example.com",
        587,
        "starttls",
        True,
    )
    assert str(host.username_file) == "/secrets/upstream/upstream/username"
    assert str(host.password_file) == "/secrets/upstream/upstream/password"
    assert config.security.require_auth
    assert not config.security.allow_local_only
    assert str(config.security.users_file) == "/secrets/users/users"
    assert config.host_name == "relay-ingress.mail.svc"


def test_a_full_resource_sets_every_option_that_is_a_field() -> None:
    relay = read_relay(resource(FULL))
    config = loaded(relay_config(relay))
    fields = list(option_values(relay.spec))
    assert {found.key for found, _ in fields} == {
        found.key for found in options() if found.key not in {*SET_BY_OPERATOR, "routes"}
    }
    defaults = {found.key: value for found, value in option_values(Spec())}
    for found, value in fields:
        assert found.value_in(config) == value, found.key
        assert value != defaults.get(found.key), f"{found.key} is the default"


# Options that follow from others, beside the one that a field is.
FOLLOWING = {"security.allowedNetworks": {"security.allowLocalOnly"}}


@pytest.mark.parametrize("path", [path for path, field in FIELDS.items() if option_of(field)])
def test_a_field_changes_its_own_option_and_nothing_else(path: str) -> None:
    found = option_of(FIELDS[path])
    assert found is not None
    here = path.removeprefix("spec.")
    value: Any = FULL
    for key in here.split("."):
        value = value[key]
    # Without AUTH the relay wants to know who else is let in.
    base = {"security": {"allowedNetworks": ["10.0.0.0/8"]}} if "requireAuth" in here else {}
    before = dict(leaves(config_of(base)))
    after = dict(leaves(config_of(changed(base, here, value))))
    differing = {key for key in before | after if before.get(key) != after.get(key)}
    users = {"security.usersFile"} if "requireAuth" in here else set()
    assert differing == {found.key} | FOLLOWING.get(found.key, set()) | users


def test_without_a_route_mail_is_captured() -> None:
    config = loaded(config_of({}))
    assert config.routes == ()
    assert not config.forward_smtp


def test_clients_are_limited_to_networks_only_when_some_are_named() -> None:
    assert not loaded(config_of({})).security.allow_local_only
    limited = {"allowedNetworks": ["192.0.2.0/24"], "requireAuth": False}
    found = loaded(config_of({"security": limited})).security
    assert found.allow_local_only
    assert found.users_file is None


def test_users_of_a_secret_are_read_even_where_nobody_must_authenticate() -> None:
    security = {
        "requireAuth": False,
        "allowedNetworks": ["192.0.2.0/24"],
        "usersSecretName": "people",
    }
    assert loaded(config_of({"security": security})).security.users_file is not None


def test_the_queue_uses_four_fifths_of_its_volume() -> None:
    config = config_of({"queue": {"storage": {"size": "10Gi"}}})
    assert config["queue"]["storeBytes"] == 8 * 2**30


def test_an_implicit_port_is_another_one() -> None:
    spec = changed(MINIMAL, "routes.0.smartHosts.0.tls", "Implicit")
    assert loaded(config_of(spec)).routes[0].smart_hosts[0].port == 465


def test_a_pod_listens_in_both_families_whatever_its_service_has() -> None:
    config = config_of({"ingress": {"service": {"ipFamilies": ["IPv6"]}}})
    assert config["smtpHost"] == "*"
    assert config["http"]["listen"] == ["*"]


def test_no_field_of_a_resource_is_a_secret() -> None:
    config = loaded(config_of(FULL))
    assert all(
        not found.value_in(config).get_secret_value() for found in options() if found.is_secret
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_value_stays_a_value(text: str) -> None:
    # Past the API server's checks, as an older definition might have let it.
    honest = read_relay(resource({}))
    spec = honest.spec.model_copy(update={"helo_name": text, "host_name": text})
    config = relay_config(dataclasses.replace(honest, spec=spec))
    before = dict(leaves(relay_config(honest)))
    differing = [(path, value) for path, value in leaves(config) if before[path] != value]
    assert sorted(differing) == [("heloName", text), ("hostName", text)]
    assert parse_config_text(json.dumps(config)) == config


def test_what_only_the_relay_knows_to_be_wrong_is_told_in_its_words() -> None:
    routes = [
        {"name": name, "recipientDomains": ["example.org"], "smartHosts": [{"host": "mx.example"}]}
        for name in ("one", "two")
    ]
    with pytest.raises(
        ResourceError, match=r"example\.org is in recipientDomains of one and of two"
    ):
        config_of({"routes": routes})


def test_a_container_reads_the_file_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = config_of(FULL)
    path.write_text(json.dumps(config))
    found = load_with_sources(path, {CONTAINER_VARIABLE: "1"})
    assert found.config == loaded(config)
