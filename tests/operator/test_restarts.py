"""Which option rolls which pods: held against the relay's model and the processes' own source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.load import Option, load_config, options
from mailrelay.config.model import RelayConfig
from mailrelay_operator.desired.children import desired
from mailrelay_operator.desired.names import Component
from mailrelay_operator.desired.pods import literal
from mailrelay_operator.desired.restarts import READ_BY
from tests.architecture.repository import ROOT
from tests.operator.relays import CASES, case, child, inputs, pod_specs

NEEDS_RESTART = [option for option in options() if not option.is_reloadable]
SOURCE = {
    Component.INGRESS: "services/ingress/src",
    Component.SENDER: "services/sender/src",
    Component.MONITOR: "services/monitor/src",
}
# Read in the library for every service, or by a name that is not the option's.
ELSEWHERE = {
    "tls.certFile": {Component.INGRESS},  # mailrelay.config.files
    "tls.keyFile": {Component.INGRESS},
    "queue.prefix": {Component.INGRESS, Component.SENDER, Component.MONITOR},  # mailrelay.service
}


def test_the_table_has_every_option_that_needs_a_restart_and_no_other() -> None:
    assert set(READ_BY) == {option.key for option in NEEDS_RESTART}


def attributes(component: Component) -> Iterator[tuple[str, str]]:
    """Every attribute that a process's source reads, and the name that it is read of."""
    for path in (ROOT / SOURCE[component]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(attr=name, value=ast.Attribute(attr=of) | ast.Name(id=of)):
                    yield of.lstrip("_"), name
                case ast.Attribute(attr=name):
                    yield "", name


def place_of(option: Option) -> tuple[str, str]:
    """What an option is read of (`config`, or its section), and its name there."""
    model: Any = RelayConfig
    names = []
    for key in option.path:
        name = next(name for name, field in model.model_fields.items() if field.alias == key)
        names.append(name)
        model = model.model_fields[name].annotation
    return names[-2] if names[1:] else "config", names[-1]


@pytest.mark.parametrize("component", SOURCE, ids=lambda each: each.value)
def test_a_process_reads_each_option_that_the_table_says_it_reads(component: Component) -> None:
    names = {name for _, name in attributes(component)}
    for option in NEEDS_RESTART:
        if component in READ_BY[option.key] - ELSEWHERE.get(option.key, set()):
            section, name = place_of(option)
            # `tls.is_on` and the like: a property of the section that several options decide.
            assert name in names or (section == "tls" and "is_on" in names), option.key


@pytest.mark.parametrize("component", SOURCE, ids=lambda each: each.value)
def test_a_process_reads_no_option_that_the_table_does_not_say_it_reads(
    component: Component,
) -> None:
    read = set(attributes(component))
    found = {option.key for option in NEEDS_RESTART if place_of(option) in read}
    assert found <= {key for key, components in READ_BY.items() if component in components}
    assert found, "nothing is found: the way of reading has changed, and this test with it"


@pytest.mark.parametrize("name", CASES)
def test_what_stands_in_the_environment_is_what_the_file_says(name: str, tmp_path: Path) -> None:
    """So that a pod whose file is a moment older is what the resource says all the same."""
    children = desired(case(name), inputs())
    text = child(children, "ConfigMap", "mail-config")["data"]["config.json"]
    file = tmp_path / "config.json"
    file.write_text(text)
    in_image = {"MAILRELAY_CONTAINER": "1"}
    alone = load_config(file, in_image)
    for component, spec in pod_specs(children).items():
        if component in {part.value for part in SOURCE}:
            (container,) = spec["containers"]
            environ = {
                variable["name"]: expanded(variable["value"]) for variable in container["env"]
            }
            assert load_config(file, {**environ, **in_image}) == alone


def expanded(value: str) -> str:
    """What Kubernetes makes of a value that names no variable (`$$` is `$`)."""
    return value.replace("$$", "$")


def test_a_value_that_looks_like_a_variable_stays_what_it_is() -> None:
    for value in ("$(MAILRELAY_NATS_URL)", "$$(X)", "a$b$$c", "$", "100 %"):
        assert expanded(literal(value)) == value
        assert "$(" not in literal(value).replace("$$", "")
