"""What Prometheus knows of relays in a cluster, found and scraped as chart and operator say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster import install, report
from tests.cluster.clusters import Cluster, LeftOutError
from tests.cluster.mail import load
from tests.cluster.prometheus_operator import SCRAPE
from tests.cluster.relays import NAME, kill_in_pod, wait_component
from tests.cluster.sinks import Sink
from tests.cluster.watched import (
    BUSY,
    ILL,
    LIMIT_SECONDS,
    OPERATOR_INTERVAL,
    RELAYS,
    Watched,
    set_senders,
    wait_watched,
    watched_pods,
    watched_relays,
)
from tests.prometheus.asked import ALERTS, OF_RELAYS, panels
from tests.support.kubernetes.client import Manifest, open_client
from tests.support.prometheus import Labels, Sample
from tests.support.wait import wait_until
from tools.observability.alerting import Alert

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]
# Longer than the tests take, so that what happened once is in it, whichever test comes first.
WINDOW = "1h"
ALL = {"namespace": ".*", "relay": ".*"}
OF_OPERATOR = [(title, expr) for row, title, expr in panels() if "perator" in row]
BY_NAME = {alert.full_name: alert for alert in ALERTS}
MAY_FIRE = {"MailRelayDiskNearlyFull"}  # of the machine
# A rate is an estimate: it goes on to the ends of its window for half an interval of the scrapes.
MORE = 1.3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(
    cluster: Cluster, willing_sink: Sink, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Watched]:
    """The two relays, and who watches them."""
    folder = tmp_path_factory.mktemp("certificates")
    try:
        async with (
            open_client(cluster.kubeconfig) as client,
            watched_relays(client, cluster, willing_sink, folder) as found,
        ):
            yield found
    except LeftOutError as error:
        report.left_out("what Prometheus sees", str(error))
        pytest.skip(str(error))


def asked(expr: str, chosen: Labels) -> str:
    """What Grafana makes of a panel's query."""
    expr = expr.replace("$__rate_interval", WINDOW)
    return expr.replace("$namespace", chosen["namespace"]).replace("$relay", chosen["relay"])


def relays_of(samples: list[Sample]) -> list[Labels]:
    """The relays that an answer speaks of, each once."""
    found = {(each.labels.get("namespace"), each.labels.get("relay")) for each in samples}
    return [{"namespace": namespace or "", "relay": relay or ""} for namespace, relay in found]


async def value_of(watched: Watched, metric: str, namespace: str) -> float:
    """What a relay's processes count together."""
    query = f"sum by (namespace, relay) ({metric})"
    found = [
        each.value
        for each in await watched.prometheus.query(query)
        if each.labels == {"namespace": namespace, "relay": NAME}
    ]
    return found[0] if found else math.nan


async def test_each_pod_is_scraped_once_under_the_name_of_its_relay(watched: Watched) -> None:
    await wait_watched(watched.client, watched.prometheus)
    wanted = [labels_of(pod) for pod in await watched_pods(watched.client)]
    found = [target["labels"] for target in await watched.prometheus.active_targets()]
    assert by_pod(found) == by_pod(wanted)


def labels_of(pod: Manifest) -> Labels:
    """What a pod's target is to be called."""
    namespace, labels = pod["metadata"]["namespace"], pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    (port,) = [port["containerPort"] for port in container["ports"] if port["name"] == "probe"]
    if namespace == install.NAMESPACE:
        monitor, own = install.NAME, {}
    else:
        monitor = f"{NAME}-pods"
        own = {"relay": NAME, "component": labels["app.kubernetes.io/component"]}
    return {
        "namespace": namespace,
        "pod": pod["metadata"]["name"],
        "container": container["name"],
        "instance": f"{pod['status']['podIP']}:{port}",
        "endpoint": "probe",
        "job": f"{namespace}/{monitor}",
        **own,
    }


def by_pod(targets: list[Labels]) -> list[Labels]:
    return sorted(targets, key=lambda labels: labels["pod"])


async def test_each_is_scraped_as_often_as_was_said(watched: Watched) -> None:
    found = {
        (target["labels"]["namespace"], target["scrapeInterval"])
        for target in await watched.prometheus.active_targets()
    }
    assert found == {(BUSY, SCRAPE), (ILL, SCRAPE), (install.NAMESPACE, OPERATOR_INTERVAL)}


async def test_no_metric_has_a_label_that_a_scrape_gives(watched: Watched) -> None:
    assert not {name for name in await watched.prometheus.label_names() if "exported" in name}


@pytest.mark.parametrize(
    "expr", [expr for _, expr in OF_RELAYS], ids=[title for title, _ in OF_RELAYS]
)
async def test_a_panel_shows_the_relays_that_are_chosen_and_no_others(
    expr: str, watched: Watched
) -> None:
    for relay in RELAYS:
        samples = await watched.prometheus.wait_numbers(asked(expr, relay), LIMIT_SECONDS)
        assert relays_of(samples) == [relay]
    samples = await watched.prometheus.query(asked(expr, ALL))
    assert sorted(relays_of(samples), key=str) == sorted(RELAYS, key=str)


@pytest.mark.parametrize(
    "expr", [expr for _, expr in OF_OPERATOR], ids=[title for title, _ in OF_OPERATOR]
)
async def test_a_panel_shows_the_operator(expr: str, watched: Watched) -> None:
    await watched.prometheus.wait_numbers(asked(expr, ALL), LIMIT_SECONDS)


async def test_the_dashboards_variables_list_the_relays(watched: Watched) -> None:
    (stored,) = await watched.client.list(
        "v1", "ConfigMap", namespace=install.NAMESPACE, labels="grafana_dashboard=1"
    )
    ((name, content),) = stored["data"].items()
    assert name == "mailrelay-overview.json"
    variables = {each["name"]: each for each in json.loads(content)["templating"]["list"]}
    shown: dict[str, list[str]] = {}
    for variable in ("namespace", "relay"):
        query = variables[variable]["query"]["query"].replace("$namespace", ILL)
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match, query
        shown[variable] = await watched.prometheus.label_values(match[2], match[1])
    assert shown == {"namespace": [BUSY, ILL], "relay": [NAME]}


async def test_the_rules_are_those_of_the_chart_and_none_has_a_fault(watched: Watched) -> None:
    groups = await watched.prometheus.rule_groups()
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert rules.keys() == BY_NAME.keys()
    for name, rule in rules.items():
        assert rule["duration"] == seconds(BY_NAME[name].holds)
        assert rule["labels"] == {"severity": BY_NAME[name].severity.value}
    assert await watched.prometheus.rule_faults() == {}


def seconds(text: str) -> int:
    """How long an alert holds; the rules say it in minutes."""
    assert text.endswith("m"), text
    return 60 * int(text.removesuffix("m"))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
async def test_an_alerts_query_is_answered(alert: Alert, watched: Watched) -> None:
    for sample in await watched.prometheus.query(alert.expr):
        assert sample.labels.get("namespace"), f"{sample} is of no namespace"


@pytest.mark.long
async def test_mail_is_counted_once_whatever_the_number_of_pods(
    watched: Watched, willing_sink: Sink
) -> None:
    sent = 'mailrelay_recipients_total{disposition="sent"}'
    before = {
        (metric, namespace): await value_of(watched, metric, namespace)
        for metric in ("mailrelay_accepted_total", sent)
        for namespace in (BUSY, ILL)
    }
    async with load(watched.cluster, watched.client, "counted", NAME, BUSY) as client:
        await client.wait_accepted(200)
        ledger = await client.finish()
    await willing_sink.wait_kept(ledger, client.run)
    recipients = sum(len(entry.recipients) for entry in ledger.accepted)

    async def are_counted() -> bool:
        grown = {
            of: await value_of(watched, *of) - value_before for of, value_before in before.items()
        }
        assert grown == {
            ("mailrelay_accepted_total", BUSY): len(ledger.accepted),
            (sent, BUSY): recipients,
            ("mailrelay_accepted_total", ILL): 0,
            (sent, ILL): 0,
        }
        return True

    await wait_until(are_counted, LIMIT_SECONDS, "Prometheus has the client's numbers", 0.5)


@pytest.mark.long
async def test_a_rate_goes_on_over_a_killed_pod_and_counts_nothing_twice(
    watched: Watched,
) -> None:
    accepted = "mailrelay_accepted_total"
    increase = f"increase({accepted}[{WINDOW}])"
    before = await value_of(watched, accepted, BUSY)
    async with load(watched.cluster, watched.client, "killed", NAME, BUSY) as client:
        await client.wait_accepted(200)
        counted = await value_of(watched, accepted, BUSY)
        grown = await value_of(watched, increase, BUSY)
        await kill_in_pod(watched.cluster, watched.client, BUSY, "ingress")
        await wait_component(watched.client, BUSY, "ingress")
        await client.wait_accepted(200)
        ledger = await client.finish()

    async def has_gone_on() -> bool:
        now = await value_of(watched, increase, BUSY)
        assert now >= grown + 100, f"{now} after {grown}"
        return True

    await wait_until(has_gone_on, LIMIT_SECONDS, "the increase grows after the kill", 0.5)
    restarts = await value_of(watched, f'resets({accepted}{{namespace="{BUSY}"}}[{WINDOW}])', BUSY)
    assert restarts >= 1, f"nothing began anew: {counted} before"
    most = before + len(ledger.accepted)
    assert await value_of(watched, increase, BUSY) <= MORE * most


async def wait_alert(
    watched: Watched, name: str, states: set[str], limit_seconds: float = LIMIT_SECONDS
) -> dict[str, Any]:
    """Wait until an alert of the ill relay is in one of the states; returns it."""
    found: list[dict[str, Any]] = []

    async def is_told() -> bool:
        alerts = await watched.prometheus.active_alerts()
        found[:] = [
            alert
            for alert in alerts
            if (alert["labels"]["alertname"], alert["labels"].get("namespace")) == (name, ILL)
            and alert["state"] in states
        ]
        return bool(found)

    await wait_until(is_told, limit_seconds, f"{name} is {' or '.join(states)}", 0.5)
    (alert,) = found
    labels = alert["labels"]
    assert (labels["relay"], labels["severity"]) == (NAME, BY_NAME[name].severity.value)
    assert alert["annotations"]["runbook_url"] == BY_NAME[name].runbook
    assert f"elay {NAME} in {ILL}" in alert["annotations"]["summary"]
    return alert


async def test_what_is_wrong_is_told_of_the_relay_that_it_is_wrong_with(watched: Watched) -> None:
    await wait_alert(watched, "MailRelayCertificateEndsSoon", {"firing"})
    # It has to hold for ten minutes before somebody is called.
    away = await wait_alert(watched, "MailRelaySmartHostDown", {"pending", "firing"})
    assert away["labels"]["route"] == "away"
    told = {
        labels["alertname"]
        for labels in await watched.prometheus.alerts()
        if labels.get("namespace") == BUSY
    }
    assert told <= MAY_FIRE


@pytest.mark.long
async def test_mail_that_waits_without_a_sender_is_told(watched: Watched) -> None:
    await set_senders(watched.client, 0)
    try:
        await wait_alert(watched, "MailRelaySenderAbsent", {"pending", "firing"})
    finally:
        await set_senders(watched.client, 1)
    await wait_component(watched.client, ILL, "sender")

    async def is_over() -> bool:
        alerts = [each["labels"]["alertname"] for each in await watched.prometheus.active_alerts()]
        assert "MailRelaySenderAbsent" not in alerts
        return True

    await wait_until(is_over, LIMIT_SECONDS, "the sender is seen again", 0.5)
    await wait_watched(watched.client, watched.prometheus)


@pytest.mark.long
@pytest.mark.patience
@pytest.mark.timeout(1800)
async def test_what_holds_for_ten_minutes_fires(watched: Watched) -> None:
    await wait_alert(watched, "MailRelaySmartHostDown", {"firing"}, 1500.0)
