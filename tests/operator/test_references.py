from __future__ import annotations

from typing import Any

from mailrelay_operator.references import Reference, missing, references
from mailrelay_operator.resource.relay import Relay, read_relay


def relay(**spec: Any) -> Relay:  # noqa: ANN401 — JSON
    head = {"name": "a", "namespace": "n", "uid": "u", "generation": 1}
    return read_relay({"metadata": head, "spec": spec})


def test_a_relay_that_names_no_secret_refers_to_none() -> None:
    assert references(relay()) == ()


def test_each_secret_is_named_with_its_keys_and_the_field_that_names_it() -> None:
    host = {"host": "h", "caSecretName": "ca", "credentialsSecretName": "pw"}
    whole = relay(
        ingress={"tls": {"secretName": "tls"}},
        security={"usersSecretName": "users"},
        routes=[{"name": "r", "smartHosts": [{"host": "g"}, host]}],
        monitor={"tokenSecretName": "token"},
        queue={
            "url": "nats://nats:4222",
            "credentials": {
                f"{role}SecretName": role for role in ("admin", "ingress", "sender", "monitor")
            },
        },
    )
    assert {(each.name, each.keys, each.used_by) for each in references(whole)} == {
        ("tls", ("tls.crt", "tls.key"), "spec.ingress.tls.secretName"),
        ("users", ("users",), "spec.security.usersSecretName"),
        ("ca", ("ca.crt",), "spec.routes[0].smartHosts[1].caSecretName"),
        ("pw", ("username", "password"), "spec.routes[0].smartHosts[1].credentialsSecretName"),
        ("token", ("token",), "spec.monitor.tokenSecretName"),
        ("admin", ("seed",), "spec.queue.credentials.adminSecretName"),
        ("ingress", ("seed",), "spec.queue.credentials.ingressSecretName"),
        ("sender", ("seed",), "spec.queue.credentials.senderSecretName"),
        ("monitor", ("seed",), "spec.queue.credentials.monitorSecretName"),
    }


def test_a_certificate_that_is_to_be_issued_is_not_waited_for() -> None:
    assert references(relay(ingress={"tls": {"issuerRef": {"name": "ca"}}})) == ()


def test_a_secret_and_a_key_that_are_missing_are_told_apart() -> None:
    wanted = [Reference("pw", ("username", "password"), "f"), Reference("ca", ("ca.crt",), "g")]
    assert [str(each) for each in missing(wanted, {"pw": {"username"}, "ca": None})] == [
        "Secret pw (f) has no key password: add it",
        "Secret ca (g) does not exist: create it",
    ]
    assert missing(wanted, {"pw": {"username", "password"}, "ca": {"ca.crt"}}) == ()
