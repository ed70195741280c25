"""Certificates for localhost, 127.0.0.1 and ::1: good, nearly over, expired, signed by nobody.

Keys are EC P-256, because making them takes no time that a test would notice.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """PEM files: the certificate and its unencrypted key."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return a server's context with this certificate."""
        return server_context(self.certificate, self.key)


@dataclass(frozen=True, slots=True)
class Certificates:
    """What `make_certificates` wrote; `authority` is what a client has to trust."""

    authority: Path
    server: ServerCertificate
    expired: ServerCertificate  # signed by the authority, over since yesterday
    self_signed: ServerCertificate
    ends_soon: ServerCertificate  # in three days

    def client_context(self) -> ssl.SSLContext:
        """Return a client's context that trusts the authority and nothing else."""
        return ssl.create_default_context(cafile=str(self.authority))


@dataclass(frozen=True, slots=True)
class _Signer:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context from PEM files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def make_certificates(folder: Path, *more_names: str) -> Certificates:
    """Write an authority and the server certificates into the folder; `server` has more names."""
    folder.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)
    authority = _Signer(
        _name("MailRelay tests' authority"), ec.generate_private_key(ec.SECP256R1())
    )
    path = folder / "authority.pem"
    root = (
        _builder(authority.name, authority, authority.key, now - DAY, now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(authority.key, hashes.SHA256())
    )
    path.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    return Certificates(
        authority=path,
        server=_server(folder, "server", authority, now - DAY, now + 30 * DAY, more_names),
        expired=_server(folder, "expired", authority, now - 30 * DAY, now - DAY),
        self_signed=_server(folder, "self-signed", None, now - DAY, now + 30 * DAY),
        ends_soon=_server(folder, "ends-soon", authority, now - DAY, now + 3 * DAY),
    )


def _server(
    folder: Path,
    label: str,
    signer: _Signer | None,
    begins: dt.datetime,
    ends: dt.datetime,
    more_names: tuple[str, ...] = (),
) -> ServerCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("localhost")
    names = [
        *(x509.DNSName(each) for each in ("localhost", *more_names)),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    signer = signer or _Signer(name, key)
    certificate = (
        _builder(name, signer, key, begins, ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(signer.key, hashes.SHA256())
    )
    paths = ServerCertificate(folder / f"{label}.pem", folder / f"{label}.key")
    paths.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths.key.touch(mode=0o600)
    paths.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name,
    signer: _Signer,
    key: ec.EllipticCurvePrivateKey,
    begins: dt.datetime,
    ends: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
            critical=False,
        )
    )


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What a certificate's key is for: to sign certificates, or to prove who one is."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
