from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from mailrelay_operator.conditions import (
    Condition,
    MissingSecret,
    Observed,
    StreamsJob,
    Workload,
    as_written,
    changes,
    conditions,
    rolling_seconds,
)


def workload(name: str, *, wanted: int = 2, ready: int = 2, fault: str = "") -> Workload:
    return Workload("Deployment", name, wanted, ready, wanted, fault=fault)


WELL = Observed(
    nats=workload("nats", wanted=3, ready=3),
    streams=StreamsJob("streams-1", done=True),
    ingress=workload("ingress"),
    sender=workload("sender"),
    monitor=workload("monitor", wanted=1, ready=1),
)


def of(seen: Observed, kind: str) -> Condition:
    return next(condition for condition in conditions(seen) if condition.type == kind)


def told(seen: Observed, kind: str) -> tuple[str, str]:
    condition = of(seen, kind)
    return condition.status, condition.reason


def test_a_relay_that_is_well_is_ready_and_nothing_else() -> None:
    assert {(c.type, c.status) for c in conditions(WELL)} == {
        ("Ready", "True"),
        ("Progressing", "False"),
        ("SecretsResolved", "True"),
        ("CertificateReady", "True"),
        ("QueueReady", "True"),
        ("IngressAvailable", "True"),
        ("SendersAvailable", "True"),
        ("Degraded", "False"),
        ("Paused", "False"),
    }


@pytest.mark.parametrize(
    ("seen", "kind", "expected"),
    [
        (replace(WELL, nats=None), "QueueReady", ("False", "NotMade")),
        (
            replace(WELL, nats=workload("n", wanted=3, ready=1)),
            "QueueReady",
            ("False", "ServersStart"),
        ),
        (replace(WELL, nats=workload("n", wanted=3, ready=2)), "QueueReady", ("True", "Ready")),
        (replace(WELL, nats=None, has_own_queue=False), "QueueReady", ("True", "Ready")),
        (replace(WELL, streams=None), "QueueReady", ("False", "NotMade")),
        (replace(WELL, streams=StreamsJob("j")), "QueueReady", ("False", "StreamsAwaited")),
        (
            replace(WELL, streams=StreamsJob("j", fault="x")),
            "QueueReady",
            ("False", "StreamsRefused"),
        ),
        (replace(WELL, ingress=None), "IngressAvailable", ("False", "NotMade")),
        (
            replace(WELL, ingress=workload("i", wanted=0, ready=0)),
            "IngressAvailable",
            ("False", "NoReplicas"),
        ),
        (replace(WELL, ingress=workload("i", ready=1)), "IngressAvailable", ("True", "Available")),
        (replace(WELL, sender=workload("s", ready=0)), "SendersAvailable", ("False", "PodsStart")),
        (
            replace(WELL, sender=workload("s", ready=0, fault="quota")),
            "SendersAvailable",
            ("False", "PodsFail"),
        ),
        (
            replace(WELL, sender=workload("s", wanted=0, ready=0)),
            "SendersAvailable",
            ("True", "ScaledToZero"),
        ),
        (
            replace(WELL, needs_certificate=True, certificate_fault="no issuer"),
            "CertificateReady",
            ("False", "NotIssued"),
        ),
        (replace(WELL, ingress=workload("i", ready=1)), "Progressing", ("True", "Rolling")),
        (replace(WELL, waits="relay b is first"), "Progressing", ("False", "Waits")),
        (
            replace(WELL, sender=workload("s", ready=0), rolling_seconds=599),
            "Degraded",
            ("False", "AsExpected"),
        ),
        (
            replace(WELL, sender=workload("s", ready=0), rolling_seconds=600),
            "Degraded",
            ("True", "PodsNotReady"),
        ),
        (replace(WELL, health=("upstream down",)), "Degraded", ("True", "Health")),
        (replace(WELL, is_unavailable=True), "Ready", ("False", "Unavailable")),
        (replace(WELL, streams=None), "Ready", ("False", "QueueReadyNotMade")),
    ],
)
def test_what_is_observed_shows(seen: Observed, kind: str, expected: tuple[str, str]) -> None:
    assert told(seen, kind) == expected


STOPPED = [
    (replace(WELL, spec_fault="routes[0].smartHosts: must not be empty"), "SpecInvalid"),
    (replace(WELL, missing=(MissingSecret("pw", "", "routes[0]"),)), "SecretMissing"),
    (replace(WELL, strangers=("Service relay-smtp",)), "NameTaken"),
    (replace(WELL, apply_faults=("Deployment x: invalid",)), "ApplyRefused"),
]


@pytest.mark.parametrize(("seen", "reason"), STOPPED, ids=[reason for _, reason in STOPPED])
def test_a_relay_that_runs_and_cannot_be_changed_is_degraded_and_still_ready(
    seen: Observed, reason: str
) -> None:
    assert told(seen, "Degraded") == ("True", reason)
    assert told(seen, "Progressing") == ("False", reason)
    assert told(seen, "Ready") == ("True", "Ready")


@pytest.mark.parametrize(("seen", "reason"), STOPPED, ids=[reason for _, reason in STOPPED])
def test_a_relay_that_never_ran_gives_the_fault_as_the_reason(seen: Observed, reason: str) -> None:
    fresh = replace(seen, nats=None, streams=None, ingress=None, sender=None, monitor=None)
    assert told(fresh, "Ready") == ("False", reason)


def test_a_message_says_what_to_do() -> None:
    missing = (MissingSecret("pw", "password", "spec.routes[0].smartHosts[0]"),)
    assert of(replace(WELL, missing=missing), "SecretsResolved").message == (
        "Secret pw (spec.routes[0].smartHosts[0]) has no key password: add it"
    )


def test_a_message_about_pods_names_the_command_that_shows_them() -> None:
    """A Deployment's own events tell nothing of an image that its pods cannot pull."""
    seen = replace(WELL, sender=workload("my-mail-sender", ready=0))
    assert of(seen, "SendersAvailable").message == (
        "0/2 pods of Deployment my-mail-sender ready; see: kubectl describe pods "
        "--selector app.kubernetes.io/instance=my-mail,app.kubernetes.io/component=sender"
    )


def test_a_long_message_is_cut_and_stays_one_line() -> None:
    seen = replace(WELL, apply_faults=("x\n" * 5000,))
    assert len(of(seen, "Degraded").message) == 2000
    assert "\n" not in of(seen, "Degraded").message


def test_a_time_changes_with_the_status_alone() -> None:
    first = as_written(conditions(WELL), [], generation=1, now="t1")
    slower = replace(WELL, ingress=workload("i", ready=1))
    second = {c["type"]: c for c in as_written(conditions(slower), first, generation=2, now="t2")}
    assert second["IngressAvailable"]["lastTransitionTime"] == "t1"
    assert second["IngressAvailable"]["message"] == "1/2 pods ready"
    assert second["Progressing"]["lastTransitionTime"] == "t2"
    assert {c["observedGeneration"] for c in second.values()} == {2}


def test_a_change_is_told_once() -> None:
    first = as_written(conditions(WELL), [], generation=1, now="t1")
    broken = replace(WELL, missing=(MissingSecret("pw", "", "routes[0]"),))
    told_of = changes(conditions(broken), first)
    assert [change.reason for change in told_of] == [
        "ProgressingSecretMissing",
        "SecretsResolvedSecretMissing",
    ]
    assert [change.warning for change in told_of] == [False, True]
    second = as_written(conditions(broken), first, generation=2, now="t2")
    assert changes(conditions(broken), second) == ()


def test_how_long_pods_are_on_their_way_is_read_from_the_conditions() -> None:
    rolling = replace(WELL, ingress=workload("i", ready=1))
    written = as_written(conditions(rolling), [], generation=1, now="2026-11-26T04:00:00Z")
    at = dt.datetime(2026, 11, 26, 4, 1, tzinfo=dt.UTC).timestamp()
    assert rolling_seconds(written, at) == 60
    well = as_written(conditions(WELL), written, generation=1, now="2026-11-26T04:00:30Z")
    assert rolling_seconds(well, at) == 0


def test_a_new_relay_tells_nothing_of_what_is_as_it_should_be() -> None:
    assert changes(conditions(WELL), []) == ()
