"""Which route takes a recipient. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.config.model import RelayConfig
from mailrelay.config.smart_hosts import configured_routes
from mailrelay.mail.job import Job, Recipient, Release
from mailrelay_sender.route import NamedHop, Routing
from tests.lib.jobs import make_job

ROUTES = {
    "exact": ["example.org", "xn--bcher-kva.example", "[192.0.2.1]"],
    "below": [".example.org"],
    "deeper": [".eu.example.org", "Mail.EU.example.org"],
    "top": [".net"],
}


def routing(by_name: dict[str, list[str]], **config: Any) -> Routing:  # noqa: ANN401 — JSON
    made = RelayConfig.model_validate(
        {
            "security": {"requireAuth": False},
            "routes": [
                {"name": name, "recipientDomains": domains, "smartHosts": [{"host": "mx.example"}]}
                for name, domains in by_name.items()
            ],
        }
        | config
    )
    return Routing.of(configured_routes(made))


def job_to(*addresses: str, **changes: Any) -> Job:  # noqa: ANN401 — the fields' types differ
    recipients = tuple(Recipient(number, each) for number, each in enumerate(addresses))
    return replace(make_job(**changes), recipients=recipients)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("address", "route"),
    [
        ("a@example.org", "exact"),
        ("a@EXAMPLE.org", "exact"),
        ("a@bücher.example", "exact"),
        ("a@xn--bcher-kva.example", "exact"),
        ("a@[192.0.2.1]", "exact"),
        ("a@www.example.org", "below"),
        ("a@x.www.example.org", "below"),
        ("a@notexample.org", "capture"),
        ("a@eu.example.org", "below"),
        ("a@www.eu.example.org", "deeper"),
        ("a@mail.eu.example.org", "deeper"),
        ("a@a.mail.eu.example.org", "deeper"),
        ("a@net", "capture"),
        ("a@x.net", "top"),
        ('"a@example.org"@other.test', "capture"),
        ("postmaster", "capture"),
    ],
)
def test_the_most_specific_entry_decides_whatever_the_order(
    address: str,
    route: str,
    reverse: bool,
) -> None:
    order = reversed(ROUTES.items()) if reverse else ROUTES.items()
    assert routing(dict(order)).route_of(address).name == route


def test_who_is_taken_by_nobody_goes_to_the_forward_options_or_the_route_for_all_others() -> None:
    forwards = {"forwardSMTP": True, "forwardHost": "up.example"}
    assert routing(ROUTES, **forwards).route_of("a@other.test").name == "smarthost"
    rest = {"name": "rest", "smartHosts": [{"host": "a.example"}, {"host": "b.example"}]}
    found = routing({}, routes=[rest]).route_of("a@other.test")
    assert (found.name, found.next_hop) == ("rest", "a.example:587, b.example:587")


def test_without_routes_a_job_stays_as_it_is() -> None:
    job = job_to("a@x.test", "b@y.test")
    for config in ({}, {"forwardSMTP": True, "forwardHost": "up.example"}):
        [share] = routing({}, **config).shares(job)
        assert share.job is job


def test_a_job_is_divided_by_the_routes_of_its_recipients() -> None:
    job = job_to("a@example.org", "b@www.example.org", "c@other.test", "d@example.org")
    shares = routing(ROUTES).shares(job)
    found = {share.route.name: [r.number for r in share.job.recipients] for share in shares}
    assert found == {"exact": [0, 3], "below": [1], "capture": [2]}


def test_a_next_hop_that_was_named_by_hand_is_for_all() -> None:
    job = job_to(
        "a@example.org", "b@other.test", release=Release("r", 1.0, next_hop="mx.example:2525")
    )
    [share] = routing(ROUTES).shares(job)
    assert share.route == NamedHop("mx.example", 2525)
    assert share.job is job


addresses = st.sampled_from(
    ["a@example.org", "b@x.example.org", "c@eu.example.org", "d@x.net", "e@other.test", "f"]
)


@given(st.lists(addresses, min_size=1, max_size=30))
def test_every_recipient_is_in_exactly_one_share_and_nothing_else_changes(found: list[str]) -> None:
    job = job_to(*found)
    table = routing(ROUTES)
    shares = table.shares(job)
    numbers = [recipient.number for share in shares for recipient in share.job.recipients]
    assert sorted(numbers) == list(range(len(found)))
    assert len({share.route.name for share in shares}) == len(shares)
    for share in shares:
        assert all(table.route_of(r.address) == share.route for r in share.job.recipients)
        assert (share.job.name, share.job.content) == (job.name, job.content)
