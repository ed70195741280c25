"""Routes are one option of the relay: held side by side here, as `option` does for the others."""

from __future__ import annotations

import typing

from pydantic import BaseModel

from mailrelay.config.model import routes as relays
from mailrelay_operator.resource import routes


def keys(model: type[BaseModel]) -> set[str]:
    return {str(field.alias) for field in model.model_fields.values()}


def test_a_route_has_the_parts_that_it_has_at_the_relay() -> None:
    assert keys(routes.Route) == keys(relays.Route)


def test_a_smart_host_has_secrets_where_the_relay_has_files() -> None:
    ours, theirs = keys(routes.SmartHost), keys(relays.SmartHost)
    assert ours - theirs == {"caSecretName", "credentialsSecretName"}
    assert theirs - ours == {"caFile", "username", "usernameFile", "password", "passwordFile"}


def test_the_words_for_tls_are_the_relays() -> None:
    words = typing.get_args(routes.SmartHost.model_fields["tls"].annotation)
    assert {word.lower() for word in words} == set(typing.get_args(relays.Tls))
    defaults = [model.model_fields["tls"].default for model in (routes.SmartHost, relays.SmartHost)]
    assert defaults[0].lower() == defaults[1]


def test_a_resource_takes_no_more_than_the_relay() -> None:
    assert routes.MAX_ROUTES <= relays.MAX_ROUTES
    assert routes.MAX_SMART_HOSTS <= relays.MAX_SMART_HOSTS
    assert routes.MAX_DOMAINS <= relays.MAX_DOMAINS
    assert set(routes.TAKEN_NAMES) == relays._TAKEN_NAMES
    ours, theirs = (
        {each.pattern for each in model.model_fields["name"].metadata if hasattr(each, "pattern")}
        for model in (routes.Route, relays.Route)
    )
    assert ours == theirs
