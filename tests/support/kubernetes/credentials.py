"""Who may do what on a control plane of the tests: an authority, certificates, kubeconfig files.

Keys are EC P-256, because making them takes no time that a test would notice. Private keys and
kubeconfig files are readable for their owner only: somebody else on the machine could otherwise
use the API server.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.certificates import key_usage

_DAY = dt.timedelta(days=1)
_CONTEXT = "mailrelay-tests"


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM files: a certificate and its unencrypted key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files of a control plane. `accounts` are the keys that ServiceAccount tokens need."""

    authority: Path
    server: Identity
    admin: Identity
    controller_manager: Identity
    scheduler: Identity
    proxy: Identity
    node: Identity
    accounts_private: Path
    accounts_public: Path


NODE = "node"  # the one node's name, where there is one


def make_credentials(folder: Path, addresses: Sequence[str] = ()) -> Credentials:
    """Write an authority and what it signs into the folder.

    The API server is known by these addresses too, beside loopback.
    """
    folder.mkdir(mode=0o700)
    authority = _Authority(folder, addresses)
    accounts = ec.generate_private_key(ec.SECP256R1())
    accounts_public = folder / "accounts.pub"
    accounts_public.write_bytes(
        accounts.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return Credentials(
        authority=authority.path,
        server=authority.sign("server", "kube-apiserver", "", is_server=True),
        # `system:masters` may do everything, whatever RBAC says.
        admin=authority.sign("admin", "tests", "system:masters"),
        controller_manager=authority.sign(
            "controller-manager", "system:kube-controller-manager", ""
        ),
        scheduler=authority.sign("scheduler", "system:kube-scheduler", ""),
        proxy=authority.sign("proxy", "system:kube-proxy", ""),
        node=authority.sign("node", f"system:node:{NODE}", "system:nodes"),
        accounts_private=_write_key(folder / "accounts.key", accounts),
        accounts_public=accounts_public,
    )


def write_kubeconfig(
    path: Path, cluster: dict[str, Any], user: Identity | str, namespace: str = "default"
) -> Path:
    """Write how somebody gets to a cluster: with a certificate, or with a bearer token."""
    who = (
        {"token": user}
        if isinstance(user, str)
        else {"client-certificate": str(user.certificate), "client-key": str(user.key)}
    )
    context = {"cluster": _CONTEXT, "user": _CONTEXT, "namespace": namespace}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": _CONTEXT, "cluster": cluster}],
        "users": [{"name": _CONTEXT, "user": who}],
        "contexts": [{"name": _CONTEXT, "context": context}],
        "current-context": _CONTEXT,
    }
    write_secret(path, json.dumps(config, indent=1).encode())  # JSON is YAML
    return path


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that is its owner's alone from the first octet on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


class _Authority:
    def __init__(self, folder: Path, addresses: Sequence[str]) -> None:
        self._folder = folder
        self._addresses = addresses
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("MailRelay tests", "")
        self.path = folder / "authority.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._builder(self._name, self._key, constraints).sign(
            self._key, hashes.SHA256()
        )
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, label: str, name: str, group: str, *, is_server: bool = False) -> Identity:
        """Write a certificate: its name is the user, its organization the user's group."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(
            _name(name, group), key, x509.BasicConstraints(ca=False, path_length=None)
        ).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if is_server:
            names = [
                *(
                    x509.IPAddress(ipaddress.ip_address(address))
                    for address in ("127.0.0.1", *self._addresses)
                ),
                x509.DNSName("localhost"),
                x509.DNSName("kubernetes.default.svc"),
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        path = self._folder / f"{label}.pem"
        certificate = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return Identity(path, _write_key(self._folder / f"{label}.key", key))

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraints: x509.BasicConstraints,
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        subject_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 30 * _DAY)
            .add_extension(constraints, critical=True)
            # The Python client checks by RFC 5280's letter: these three must be there.
            .add_extension(subject_id, critical=False)
            .add_extension(issuer_id, critical=False)
            .add_extension(key_usage(signs_certificates=constraints.ca), critical=True)
        )


def _name(common: str, organization: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return path
