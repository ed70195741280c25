from __future__ import annotations

import json

import pytest

from mailrelay.config.load import Option, options
from mailrelay.config.words import plain_type
from mailrelay_operator.resource.option import OPTIONS, choices, is_choice, option, option_of
from mailrelay_operator.resource.set_by_operator import SET_BY_OPERATOR
from mailrelay_operator.resource.spec import Spec
from tests.operator.fields import FIELDS

# Translated as a whole: a list of sections is one option of the relay.
LISTS = {"routes"}


FIELD_OF = {found.key: path for path, field in FIELDS.items() if (found := option_of(field))}


def test_every_option_of_the_relay_is_a_field_or_has_a_reason_not_to_be_one() -> None:
    assert {found.key for found in options()} - LISTS == FIELD_OF.keys() | SET_BY_OPERATOR.keys()


def test_no_option_is_both_a_field_and_set_by_the_operator() -> None:
    assert FIELD_OF.keys() & SET_BY_OPERATOR.keys() == set()


def test_no_option_is_two_fields() -> None:
    keys = [found.key for field in FIELDS.values() if (found := option_of(field))]
    assert sorted(keys) == sorted(set(keys))


@pytest.mark.parametrize("key", SET_BY_OPERATOR)
def test_a_reason_names_only_fields_that_there_are(key: str) -> None:
    reason = SET_BY_OPERATOR[key]
    named = [word.strip(":;,.") for word in reason.split() if word.startswith("spec.")]
    assert [path for path in named if path not in FIELDS] == []


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_is_described(path: str) -> None:
    description = FIELDS[path].description or ""
    assert description.endswith(".")
    assert description[0].isupper() or description[0].isdigit() or description[0] == "/"


def test_a_field_that_is_an_option_has_its_default_unless_a_cluster_needs_another() -> None:
    differing = {
        key: FIELDS[path].default
        for key, path in FIELD_OF.items()
        if FIELDS[path].default != as_in_the_resource(OPTIONS[key])
    }
    assert differing == {
        # A NATS of the relay's own is sized by its volume, and alone at it.
        "queue.storeBytes": None,
        "queue.prefix": None,
        # Pods share no disk unless somebody names one.
        "security.logAllEmails": False,
        # As in any container: for what names nobody.
        "http.allowedNetworks": FIELDS["spec.monitor.allowedNetworks"].default,
    }


def as_in_the_resource(found: Option) -> object:
    default = found.field.default
    return choices(found.field)[0] if is_choice(found.field) else default


def test_a_field_takes_no_value_that_its_option_does_not() -> None:
    for key, path in FIELD_OF.items():
        wanted = OPTIONS[key].field
        if not is_choice(wanted):
            bounds = {repr(bound) for bound in wanted.metadata}
            assert bounds <= {repr(bound) for bound in FIELDS[path].metadata}, path


def test_an_option_that_the_relay_does_not_have_cannot_be_a_field() -> None:
    with pytest.raises(KeyError, match="maxPerWeek"):
        option("rateLimits.maxPerWeek")


def test_the_defaults_are_what_a_resource_of_one_smart_host_needs() -> None:
    found = Spec.model_validate(
        {"routes": [{"name": "out", "smartHosts": [{"host": "smtp.example.net"}]}]}
    )
    assert found.routes[0].smart_hosts[0].port_or_default == 587
    assert found.sender.fixed_replicas == 2
    assert json.dumps(found.model_dump(exclude_none=True))


def test_whole_numbers_stay_whole() -> None:
    for path, field in FIELDS.items():
        if plain_type(field) is int and field.default is not None:
            assert isinstance(field.default, int) or field.is_required(), path
