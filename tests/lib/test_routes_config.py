"""The list of routes in a configuration: what is refused with which words, and what never shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.files import check_files
from mailrelay.config.in_force import read_in_force, write_in_force
from mailrelay.config.load import ConfigError, load_config, load_with_sources, options
from mailrelay.config.smart_hosts import configured_routes
from mailrelay.config.words import plain
from mailrelay_cli.config_command import explained, table

SECRET = "open sesame 4711"  # noqa: S105 — of the tests
HOST: dict[str, Any] = {"host": "mx.example"}
ROUTE: dict[str, Any] = {"name": "a", "recipientDomains": ["example.org"], "smartHosts": [HOST]}


def write(folder: Path, routes: object, **more: Any) -> Path:  # noqa: ANN401 — JSON
    path = folder / "config.json"
    path.write_text(json.dumps({"security": {"requireAuth": False}, "routes": routes, **more}))
    return path


def with_host(**changes: Any) -> list[dict[str, Any]]:  # noqa: ANN401 — JSON
    return [ROUTE | {"smartHosts": [HOST | changes]}]


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ({"a": 1}, "routes: must be a list of objects, is an object"),
        ([3], "routes[0]: must be an object, is a number"),
        ([{"smartHosts": [HOST]}], "routes[0].name: must be set"),
        ([{"name": "a"}], "routes[0].smartHosts: must be set"),
        (
            [ROUTE | {"smartHosts": []}],
            (
                "routes[0].smartHosts: must be a list of objects, 1 or more, at most 10, "
                "is a list of 0"
            ),
        ),
        ([ROUTE | {"smartHosts": [{}]}], "routes[0].smartHosts[0].host: must be set"),
        (
            with_host(port="25"),
            'routes[0].smartHosts[0].port: must be a whole number from 1 to 65535, is "25"',
        ),
        (
            with_host(port=0),
            "routes[0].smartHosts[0].port: must be a whole number from 1 to 65535, is 0",
        ),
        (
            with_host(tls="none"),
            (
                'routes[0].smartHosts[0].tls: must be "opportunistic" or "starttls" or "implicit", '
                'is "none"'
            ),
        ),
        (
            with_host(host="mx.example:25"),
            "routes[0].smartHosts[0].host: must be a host name or an address, without a port",
        ),
        (
            with_host(verifyTls=False),
            "unknown key routes[0].smartHosts[0].verifyTls; did you mean verifyTLS?",
        ),
        (
            [ROUTE | {"recipientDomain": []}],
            "unknown key routes[0].recipientDomain; did you mean recipientDomains?",
        ),
        (
            [ROUTE | {"recipientDomains": []}],
            (
                "routes[0].recipientDomains: an empty list takes nobody: leave it out for all "
                "other recipients"
            ),
        ),
        (
            [ROUTE, ROUTE | {"name": "b", "recipientDomains": ["*.example.org"]}],
            (
                "routes[1].recipientDomains: '*.example.org' is no domain: write example.org for a "
                "domain, .example.org for all domains below it"
            ),
        ),
        (
            [ROUTE | {"name": "smarthost"}],
            "routes[0].name: must be another name than capture, named, smarthost",
        ),
        (
            [ROUTE, ROUTE | {"name": "b", "recipientDomains": ["EXAMPLE.org"]}],
            "routes: example.org is in recipientDomains of a and of b",
        ),
        (
            with_host(username="ada"),
            (
                "routes[0].smartHosts[0]: a user name and a password must be set together: "
                "username or usernameFile, and password or passwordFile"
            ),
        ),
        (
            with_host(username="ada", password=SECRET, passwordFile="x"),
            (
                "routes[0].smartHosts[0]: password and passwordFile are both set: leave one of "
                "them out"
            ),
        ),
        (
            with_host(password=[SECRET]),
            "routes[0].smartHosts[0].password: must be a string, is a list of 1",
        ),
        (
            [ROUTE | {"name": f"a{n}"} for n in range(10_000)],
            ("routes: must be a list of objects, at most 100, is a list of 10000"),
        ),
    ],
)
def test_a_fault_in_a_route_is_one_line_with_its_place(
    routes: object, words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, routes)
    with pytest.raises(ConfigError) as error:
        load_config(path, {})
    assert error.value.faults == [f"{path}: {words}"]
    assert SECRET not in repr(error.value.__cause__)


def test_neither_a_variable_nor_the_command_line_holds_a_list_of_objects(tmp_path: Path) -> None:
    path = write(tmp_path, [ROUTE])
    with pytest.raises(ConfigError) as error:
        load_config(path, {"ROUTES": "[]"}, ["routes=[]"])
    words = "routes is a list of objects, which neither a variable nor --set can hold; set it in"
    assert error.value.faults == [f"ROUTES: {words} {path}", f"command line: {words} {path}"]


def test_passwords_in_routes_show_nowhere_and_reach_a_process_that_is_started_again(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, with_host(username="ada", password=SECRET))
    loaded = load_with_sources(path, {})
    shown = [*table(loaded), json.dumps(explained(loaded)), repr(loaded.config)]
    assert SECRET not in "".join(shown)
    [option] = [each for each in options() if each.key == "routes"]
    assert option.is_reloadable
    assert plain(option.value_in(loaded.config))[0]["smartHosts"] == [
        {"host": "mx.example", "username": "ada", "password": "********"}
    ]
    write_in_force(tmp_path / "in_force.json", loaded.config)
    again = read_in_force(tmp_path / "in_force.json")
    assert again == loaded.config
    password = again.routes[0].smart_hosts[0].password
    assert password.get_secret_value() == SECRET


def test_a_file_that_a_smart_host_needs_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    routes = with_host(username="ada", passwordFile=none, caFile=none)
    path = write(tmp_path, routes)
    with pytest.raises(ConfigError) as error:
        check_files(load_with_sources(path, {}))
    place = f"{path}: routes[0].smartHosts[0]"
    authorities, password = error.value.faults
    assert authorities.startswith(f"{place}.caFile: must be a PEM file of certificates that can")
    assert password == f"{place}.passwordFile: {none}: cannot be read: No such file or directory"


def test_the_forward_options_are_the_last_route_and_have_one_smart_host(tmp_path: Path) -> None:
    forward = {"forwardSMTP": True, "forwardHost": "up.example", "forwardSSL": True}
    config = load_config(write(tmp_path, [ROUTE], **forward), {})
    first, last = configured_routes(config)
    assert (first.name, first.domains) == ("a", ("example.org",))
    assert (last.name, last.domains) == ("smarthost", None)
    [host] = last.hosts
    assert (host.next_hop, host.section.tls) == ("up.example:587", "implicit")
    assert host.option("caFile") == "forwardCAFile"
    assert configured_routes(load_config(write(tmp_path, []), {})) == ()
