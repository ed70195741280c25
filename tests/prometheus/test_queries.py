"""Every query of dashboard and rules, asked of a real Prometheus that scrapes a real relay."""

from __future__ import annotations

import math
import re

import pytest

from tests.prometheus.asked import ALERTS, ALL_QUERIES, OF_RELAYS, WINDOW, asked, metrics_of
from tests.prometheus.observed import CLUSTER, ONE_MACHINE, Observed
from tests.support.prometheus import Labels
from tools.observability.alerting import Alert

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]


@pytest.mark.parametrize("relay", [ONE_MACHINE, CLUSTER], ids=["one machine", "cluster"])
@pytest.mark.parametrize(
    "expr", [expr for _, expr in OF_RELAYS], ids=[title for title, _ in OF_RELAYS]
)
async def test_a_panel_shows_numbers_of_a_relay_wherever_it_runs(
    expr: str, relay: Labels, observed: Observed
) -> None:
    samples = await observed.prometheus.wait_numbers(asked(expr, relay))
    named = [{key: each.labels.get(key) for key in ONE_MACHINE} for each in samples]
    assert all(each == ONE_MACHINE for each in named)
    if "namespace" in relay:
        assert {each.labels.get("namespace") for each in samples} == {relay["namespace"]}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
async def test_an_alerts_query_is_answered(alert: Alert, observed: Observed) -> None:
    await observed.prometheus.query(alert.expr)


async def test_prometheus_evaluates_every_rule_without_a_complaint(observed: Observed) -> None:
    assert await observed.prometheus.rule_faults() == {}


@pytest.mark.parametrize(
    "expr",
    [
        'mailrelay_recipients_total{disposition="sent", route="smarthost"}',
        'mailrelay_recipients_total{disposition="deferred", route="dead"}',
        'mailrelay_failed_discarded_total{reason="max_records"}',
        "mailrelay_delivery_latency_seconds_count",
        "mailrelay_rate_limited_total",
        'mailrelay_logins_total{outcome="invalid"}',
    ],
)
async def test_the_first_of_its_kind_is_an_increase(expr: str, observed: Observed) -> None:
    await observed.prometheus.wait_numbers(f"increase({expr}[{WINDOW}]) > 0")


async def test_a_chosen_relay_that_is_not_there_shows_nothing(observed: Observed) -> None:
    for _, expr in OF_RELAYS:
        assert await observed.prometheus.query(asked(expr, {"relay": "another"})) == []


async def test_every_other_metric_of_a_query_is_one_that_the_processes_have(
    observed: Observed,
) -> None:
    used = {name for expr in ALL_QUERIES for name in metrics_of(expr)}
    for name in sorted(name for name in used if not name.startswith("mailrelay_")):
        samples = await observed.prometheus.query(f"{name}{{relay='mail', namespace=''}}")
        assert {each.labels["component"] for each in samples} == {"ingress", "sender", "monitor"}


async def test_the_monitors_http_port_serves_the_same_to_prometheus(observed: Observed) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"
    answer = await observed.relay.get("/metrics", headers={"Accept": accept})
    assert "mailrelay_ready 1.0" in answer.text
    assert not math.isnan(
        float(re.findall(r"^mailrelay_disk_size_bytes (.+)$", answer.text, re.MULTILINE)[0])
    )
