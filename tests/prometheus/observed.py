"""A relay that has done everything that dashboard and alerts speak of, and a Prometheus beside it.

Prometheus scrapes the same processes twice: labelled as on one machine, and as the relay's own
PodMonitor has them labelled in a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import smtplib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailrelay_operator.desired.children import desired
from tests.operator.relays import case, child, inputs
from tests.support.certificates import make_certificates
from tests.support.ports import free_port
from tests.support.prometheus import Job, Labels, Prometheus
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.replies import Reply
from tests.support.scripts import per_recipient
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts" / "mailrelay" / "files" / "rules" / "alerts.yaml"
ONE_MACHINE: Labels = {"relay": "mail"}
CLUSTER: Labels = {"relay": "mail", "namespace": "post"}
USER, SECRET = "grace", "correct horse"
MAX_FAILED = 2
MESSAGE = b"Subject: hello\r\n\r\nhi\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 20_000
LIMIT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Observed:
    """The two, and the relay's upstream."""

    relay: Relay
    prometheus: Prometheus
    upstream: ScriptedUpstream


def jobs(relay: Relay) -> list[Job]:
    """Both ways of labelling a running relay's processes."""
    probes = relay.run_file().probes
    pods = {
        address: {
            "__meta_kubernetes_pod_label_app_kubernetes_io_instance": CLUSTER["relay"],
            "__meta_kubernetes_pod_label_app_kubernetes_io_component": name,
            "__meta_kubernetes_namespace": CLUSTER["namespace"],
        }
        for name, address in probes.items()
    }
    return [
        Job(
            "mailrelay", {each: ONE_MACHINE | {"component": name} for name, each in probes.items()}
        ),
        Job("post/mail-pods", pods, relabel_configs()),
    ]


def relabel_configs() -> list[dict[str, Any]]:
    """What Prometheus' operator makes of the PodMonitor that our operator makes.

    Its own first: a pod's namespace becomes the label of that name.
    """
    monitor = child(desired(case("minimal"), inputs()), "PodMonitor", "mail-pods")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    of_operator = {"sourceLabels": ["__meta_kubernetes_namespace"], "targetLabel": "namespace"}
    return [
        {re.sub("([A-Z])", lambda m: "_" + m[0].lower(), key): value for key, value in each.items()}
        for each in [of_operator, *endpoint["relabelings"]]
    ]


def rules_at_once(folder: Path) -> Path:
    """Our rules, told as soon as they are true: how long they hold is promtool's to test."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["for"] = "0s"
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    return path


@contextlib.asynccontextmanager
async def running_prometheus(folder: Path, relay: Relay) -> AsyncIterator[Prometheus]:
    """A Prometheus that has seen a relay twice before anything else happens there."""
    prometheus = Prometheus(folder, jobs(relay), [rules_at_once(folder)])
    try:
        await prometheus.start()
        await prometheus.wait_scraped()
        yield prometheus
    finally:
        await prometheus.stop()


@contextlib.asynccontextmanager
async def observed_relay(folder: Path) -> AsyncIterator[Observed]:
    """Everything has happened once this is entered; nothing changes any more, but for retries."""
    certificate = make_certificates(folder / "certificates").ends_soon
    script = per_recipient(
        {
            "later@far.test": Reply(450, "4.2.0 later"),
            lambda address: address.startswith("nobody"): Reply(550, "5.1.1 no such user"),
        }
    )
    async with ScriptedUpstream(script) as upstream:
        config: Mapping[str, Any] = {
            **forwarding_to(upstream.port),
            "defaultUsername": USER,
            "defaultPassword": SECRET,
            "security": {"requireAuth": False, "logAllEmails": True},
            "tls": {"certFile": str(certificate.certificate), "keyFile": str(certificate.key)},
            "rateLimits": {"enabled": True, "maxPerHour": 1000, "maxPerDay": 1000}
            | {"globalMaxPerHour": 1000, "globalMaxPerDay": 6},
            "failed": {"maxRecords": MAX_FAILED},
            "routes": [
                {
                    "name": "dead",
                    "recipientDomains": ["dead.test"],
                    "smartHosts": [{"host": "127.0.0.1", "port": free_port()}],
                }
            ],
        }
        async with (
            running_relay(folder, **config) as relay,
            running_prometheus(folder, relay) as prometheus,
        ):
            observed = Observed(relay, prometheus, upstream)
            await _live(observed)
            yield observed


async def _live(observed: Observed) -> None:
    relay = observed.relay
    await asyncio.to_thread(_log_in, relay.smtp_port, SECRET)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        await asyncio.to_thread(_log_in, relay.smtp_port, "wrong")
    limit = LIMIT_SECONDS
    async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=limit) as client:
        await client.expect(220)
        await client.ehlo()
        await client.submit("a@near.test", ["one@far.test", "later@far.test"], MESSAGE)
        await client.submit("a@near.test", ["large@far.test"], LARGE)
        for number in range(3):  # one more than the failed store may have
            await client.submit("a@near.test", [f"nobody{number}@far.test"], MESSAGE)
        await client.submit("a@near.test", ["one@dead.test"], MESSAGE)
        for _ in range(20):  # the next one, unless a day began meanwhile
            if (await client.submit("b@near.test", ["two@far.test"], MESSAGE)).mail.code == 451:
                break
        else:
            raise AssertionError("nothing is limited")
    await observed.upstream.wait_received(2, timeout=LIMIT_SECONDS)
    for event, count in (("mail.bounced", 3), ("mail.deferred", 2), ("upstream.down", 1)):
        await wait_until(
            lambda event=event, count=count: len(relay.log_lines(event)) >= count,
            LIMIT_SECONDS,
            f"{count} lines of {event}",
            interval=0.2,
        )


def _log_in(port: int, secret: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.starttls(context=context)
        client.login(USER, secret)
