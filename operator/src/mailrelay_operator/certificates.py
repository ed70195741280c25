"""An authority of the relay's own, and the listener's certificate by it.

Elliptic curve P-256: every TLS library of the last fifteen years takes it. The authority's key lies
in a Secret that no pod mounts. When either ends soon it is made anew; clients trust `ca.crt`, which
keeps an authority that is being replaced until it ends, so that they have its last year to follow.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS: Final = 3650
CA_RENEW_DAYS: Final = 365  # before its end; longer than any certificate by it lives
CERTIFICATE_DAYS: Final = 90
CERTIFICATE_RENEW_DAYS: Final = 30  # as cert-manager: a third of its life
_SKEW: Final = dt.timedelta(hours=1)  # clocks of clients
_MAX_COMMON_NAME: Final = 64  # RFC 5280, ub-common-name


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def new_authority(name: str, now: dt.datetime) -> Pair:
    """Return a new authority that signs end certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"MailRelay {name}")
    certificate = (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def new_certificate(authority: Pair, names: Sequence[str], now: dt.datetime) -> Pair:
    """Return a new server certificate for DNS names, the first one its common name.

    Raises ValueError when the authority cannot be read.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not one of this operator's")  # noqa: TRY004 — what a caller expects of damaged data
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(names[0]), issuer.subject, key.public_key(), now, CERTIFICATE_DAYS)
        .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def is_good_authority(pair: Pair, now: dt.datetime) -> bool:
    """Tell whether an authority can sign for a good while yet."""
    certificate = _readable(pair)
    return certificate is not None and _is_longer_than(certificate, now, CA_RENEW_DAYS)


def is_good_certificate(
    pair: Pair, authority: Pair, names: Sequence[str], now: dt.datetime
) -> bool:
    """Tell whether a certificate is by this authority, for these names, and lasts a good while."""
    certificate = _readable(pair)
    issuer = _readable(authority)
    if certificate is None or issuer is None:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except Exception:  # noqa: BLE001 — the library has several for a certificate that is not ours
        return False
    found = alternative.value.get_values_for_type(x509.DNSName)
    return found == list(names) and _is_longer_than(certificate, now, CERTIFICATE_RENEW_DAYS)


def trusted(certificates: Sequence[bytes], now: dt.datetime) -> bytes:
    """Return what clients trust: those that have not ended, each once, the first one first."""
    kept = []
    for each in dict.fromkeys(certificates):
        try:
            certificate = x509.load_pem_x509_certificate(each)
        except ValueError:
            continue
        if certificate.not_valid_after_utc > now:
            kept.append(certificate.public_bytes(serialization.Encoding.PEM))
    return b"".join(dict.fromkeys(kept))


def split(bundle: bytes) -> list[bytes]:
    """Return the certificates of a bundle, each as PEM; none when it cannot be read."""
    try:
        found = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return []
    return [each.public_bytes(serialization.Encoding.PEM) for each in found]


def _readable(pair: Pair) -> x509.Certificate | None:
    """Return the certificate, when its key is there and belongs to it."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, None)
        is_pair = key.public_key() == certificate.public_key()
    except Exception:  # noqa: BLE001 — the library has several for what it cannot read
        return None
    return certificate if is_pair else None


def _is_longer_than(certificate: x509.Certificate, now: dt.datetime, days: int) -> bool:
    return certificate.not_valid_after_utc - now > dt.timedelta(days=days)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_MAX_COMMON_NAME])])


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
