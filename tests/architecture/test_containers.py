"""Dockerfile and compose files against the code."""

from __future__ import annotations

import re

import pytest

from mailrelay.config.defaults import CONTAINER, CONTAINER_VARIABLE
from mailrelay.config.load import load_with_sources, options
from mailrelay_cli.nats_server import FETCHED_VERSION, GO_WHEEL
from tests.architecture.repository import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
VARIABLE = re.compile(r"^ +([A-Z][A-Z_]+):", re.MULTILINE)
# What the compose files say of themselves: where containers find each other.
OWN = {
    "MAILRELAY_CONFIG",
    "MAILRELAY_NATS_URL",
    "MAILRELAY_NATS_SEED_FILE",
    "MAILRELAY_SMTP_ADDRESS",
}


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.split.yml"])
def test_every_option_can_be_set_by_environment(name: str) -> None:
    named = VARIABLE.findall((ROOT / name).read_text())
    settable = [option for option in options() if not option.is_sections]
    assert sorted(set(named) - OWN) == sorted(option.variable for option in settable)
    assert len(named) == len(set(named))


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.split.yml"])
def test_every_port_is_published_on_loopback_only(name: str) -> None:
    published = re.findall(r'^ +- "(.*:\d*.*)"$', (ROOT / name).read_text(), re.MULTILINE)
    assert len(published) == 2
    assert all(each.startswith("127.0.0.1:") for each in published)


def test_a_password_is_given_to_the_role_that_needs_it_alone() -> None:
    text = (ROOT / "docker-compose.split.yml").read_text()
    services = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE))
    secret = {option.variable for option in options() if option.is_secret}
    assert secret == {"DEFAULT_PASSWORD", "FORWARD_PASSWORD"}
    holders = {
        variable: [name for name, body in services.items() if f" {variable}:" in body]
        for variable in secret
    }
    assert holders == {"DEFAULT_PASSWORD": ["ingress"], "FORWARD_PASSWORD": ["sender"]}
    common = text.partition("x-environment")[2].partition("x-container")[0]
    assert not [variable for variable in secret if variable in common]


def test_the_images_have_the_versions_that_everything_else_has() -> None:
    (nats,) = re.findall(r"^ARG NATS_SERVER_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert nats == FETCHED_VERSION
    makefile = (ROOT / "Makefile").read_text()
    (uv,) = re.findall(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert re.search(
        rf"^uv=={re.escape(uv)} ", (ROOT / "requirements-image.lock").read_text(), re.MULTILINE
    )
    assert re.search(
        rf"^{re.escape(GO_WHEEL)} ", (ROOT / "requirements-go.lock").read_text(), re.MULTILINE
    )


def test_an_image_says_that_it_is_a_container_and_needs_no_reader_of_its_own() -> None:
    assert f"{CONTAINER_VARIABLE}=1" in DOCKERFILE
    assert not DOCKERFILE.startswith("# syntax=")


def test_the_configuration_that_compose_mounts_captures_all_mail() -> None:
    found = load_with_sources(ROOT / "deploy" / "config.json", {CONTAINER_VARIABLE: "1"})
    assert not found.config.forward_smtp
    assert set(found.sources.values()) == {"default", CONTAINER.name}
