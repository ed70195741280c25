"""Secrets that nobody gave: made once, kept, mended when damaged, and made anew near their end."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from cryptography import x509

from mailrelay.config.token import read_token
from mailrelay.config.users import read_users
from mailrelay.runtime.certificate import CertificateFiles, check_certificate
from mailrelay_operator.certificates import CA_DAYS, CA_RENEW_DAYS, CERTIFICATE_DAYS, split
from mailrelay_operator.generate import (
    ROLES,
    GeneratedSecret,
    certificate_names,
    generate,
    generated_names,
)
from mailrelay_operator.key_slots import key_slots
from tests.operator.relays import relay

NOW = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
Found = dict[str, dict[str, bytes]]


def made(spec: dict[str, Any] | None = None, found: Found | None = None, days: float = 0) -> Found:
    """What there is after one more look, so many days later."""
    secrets = generate(relay(spec), found or {}, NOW + dt.timedelta(days=days))
    return {**(found or {}), **{each.name: dict(each.data) for each in secrets}}


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o400)
    return path


def test_a_minimal_relay_gets_all_that_it_needs() -> None:
    assert set(made()) == {
        *("mail-smtp", "mail-ca", "mail-tls", "mail-http-token"),
        *("mail-nats-admin", "mail-nats-ingress", "mail-nats-sender", "mail-nats-monitor"),
    }
    assert set(made()) == set(generated_names(relay()))


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ({"security": {"usersSecretName": "people"}}, {"mail-smtp"}),
        (
            {"security": {"requireAuth": False, "allowedNetworks": ["192.0.2.0/24"]}},
            {"mail-smtp"},
        ),
        ({"ingress": {"tls": {"secretName": "own"}}}, {"mail-ca", "mail-tls"}),
        ({"ingress": {"tls": {"issuerRef": {"name": "i"}}}}, {"mail-ca", "mail-tls"}),
        ({"monitor": {"tokenSecretName": "own"}}, {"mail-http-token"}),
        (
            {
                "queue": {
                    "url": "nats://n",
                    "prefix": "p",
                    "storeBytes": 10**9,
                    "credentials": {f"{role.value}SecretName": role.value for role in ROLES},
                }
            },
            {f"mail-nats-{role.value}" for role in ROLES},
        ),
    ],
)
def test_nothing_is_made_in_place_of_what_somebody_named(
    spec: dict[str, Any], missing: set[str]
) -> None:
    assert set(made()) - set(made(spec)) == missing


def test_what_is_there_stays_as_it_is() -> None:
    for spec in ({}, {"queue": {"replicas": 3}}):
        assert generate(relay(spec), made(spec), NOW + dt.timedelta(days=30)) == ()


def test_no_two_relays_have_the_same_secrets() -> None:
    one, other = made({"queue": {"replicas": 3}}), made({"queue": {"replicas": 3}})
    for name, data in one.items():
        assert all(data[key] != other[name][key] for key in data if key not in {"username", "slot"})


def test_the_relay_takes_what_is_made(tmp_path: Path) -> None:
    found = made()
    user = found["mail-smtp"]
    users = read_users(written(tmp_path, "users", user["users"]))
    assert PasswordHasher().verify(users[user["username"].decode()], user["password"])
    token = read_token(written(tmp_path, "token", found["mail-http-token"]["token"]))
    assert token is not None
    assert token.matches(found["mail-http-token"]["token"].decode())
    files = CertificateFiles(
        written(tmp_path, "tls.crt", found["mail-tls"]["tls.crt"]),
        written(tmp_path, "tls.key", found["mail-tls"]["tls.key"]),
    )
    assert check_certificate(files).ends_at == NOW + dt.timedelta(days=CERTIFICATE_DAYS)
    for role in ROLES:
        assert key_slots(found[f"mail-nats-{role.value}"]) is not None


@pytest.mark.parametrize("host", ["mail-ingress", "mail-ingress.apps.svc", "relay.example"])
def test_a_client_that_trusts_the_authority_reaches_the_listener_by_each_name(
    host: str, tmp_path: Path
) -> None:
    """By a real handshake; the certificate's time is now, as the machine's clock has it."""
    now = dt.datetime.now(dt.UTC)
    secrets = {
        each.name: each.data for each in generate(relay({"hostName": "relay.example"}), {}, now)
    }
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(
        written(tmp_path, "tls.crt", secrets["mail-tls"]["tls.crt"]),
        written(tmp_path, "tls.key", secrets["mail-tls"]["tls.key"]),
    )
    client = ssl.create_default_context(cadata=secrets["mail-ca"]["ca.crt"].decode())
    near, far = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(far, server_side=True) as wrapped:
            wrapped.sendall(b"220 ")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=host) as wrapped:
            assert wrapped.recv(4) == b"220 "
    finally:
        near.close()
        thread.join(20)


def test_the_authority_signs_certificates_of_servers_and_nothing_else() -> None:
    found = made()
    authority = x509.load_pem_x509_certificate(found["mail-ca"]["tls.crt"])
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    certificate = x509.load_pem_x509_certificate(found["mail-tls"]["tls.crt"])
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca is False


def test_a_certificate_is_made_anew_before_its_end_and_by_the_same_authority() -> None:
    first = made()
    second = made(None, first, days=CERTIFICATE_DAYS - 29)
    assert second["mail-tls"]["tls.crt"] != first["mail-tls"]["tls.crt"]
    assert second["mail-ca"] == first["mail-ca"]
    assert {name for name in first if first[name] != second[name]} == {"mail-tls"}


def test_another_host_name_makes_another_certificate() -> None:
    first = made()
    second = made({"hostName": "relay.example"}, first)
    assert {name for name in first if first[name] != second[name]} == {"mail-tls"}
    certificate = x509.load_pem_x509_certificate(second["mail-tls"]["tls.crt"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName)[0] == "relay.example"


def test_clients_trust_an_authority_until_its_end_and_its_successor_at_once() -> None:
    first = made()
    second = made(None, first, days=CA_DAYS - CA_RENEW_DAYS + 1)
    assert second["mail-ca"]["tls.crt"] != first["mail-ca"]["tls.crt"]
    bundle = split(second["mail-ca"]["ca.crt"])
    assert bundle == [second["mail-ca"]["tls.crt"], first["mail-ca"]["tls.crt"]]
    third = made(None, second, days=CA_DAYS + 1)
    assert split(third["mail-ca"]["ca.crt"]) == [second["mail-ca"]["tls.crt"]]


@pytest.mark.parametrize("key", ["tls.crt", "tls.key"])
@pytest.mark.parametrize("name", ["mail-ca", "mail-tls"])
@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff\x00"])
def test_a_damaged_certificate_is_made_anew(name: str, key: str, content: bytes) -> None:
    first = made()
    damaged = {**first, name: {**first[name], key: content}}
    assert generate(relay(), made(None, damaged), NOW) == ()


def test_a_name_with_every_sign_that_a_resource_may_have_is_in_the_certificate_as_it_is() -> None:
    assert certificate_names(relay({"hostName": "a-b.EXAMPLE"}))[0] == "a-b.EXAMPLE"


def changed_user(**changes: bytes) -> tuple[Found, Found]:
    first = made()
    return first, {**first, "mail-smtp": {**first["mail-smtp"], **changes}}


def test_the_file_of_users_follows_a_password_that_people_change(tmp_path: Path) -> None:
    first, asked = changed_user(password=b"another, chosen by people", username=b"shop")
    second = made(None, asked)
    assert second["mail-smtp"]["password"] == b"another, chosen by people"
    users = read_users(written(tmp_path, "users", second["mail-smtp"]["users"]))
    assert list(users) == ["shop"]
    assert PasswordHasher().verify(users["shop"], "another, chosen by people")
    assert {name for name in first if first[name] != second[name]} == {"mail-smtp"}
    assert generate(relay(), second, NOW) == ()


@pytest.mark.parametrize(
    "changes",
    [{"username": b"a:b"}, {"username": b"a\nb"}, {"password": b"x" * 600}, {"password": b"\0"}],
)
def test_a_user_that_cannot_be_leaves_the_file_of_users_as_it_was(
    changes: dict[str, bytes],
) -> None:
    _, asked = changed_user(**changes)
    assert generate(relay(), asked, NOW) == ()


def test_what_people_add_to_a_secret_stays_there() -> None:
    first, asked = changed_user(note=b"ours", password=b"another one")
    assert made(None, asked)["mail-smtp"]["note"] == b"ours"
    assert "note" not in first["mail-smtp"]


def test_no_secret_is_shown() -> None:
    for secret in generate(relay({"queue": {"replicas": 3}}), {}, NOW):
        shown = repr(secret)
        for value in secret.data.values():
            assert value.decode() not in shown or value in {b"mailrelay", b"a"}
        assert secret == GeneratedSecret(secret.name, secret.type, secret.data)
