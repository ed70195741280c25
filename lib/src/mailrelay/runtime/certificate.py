"""A server's certificate: read, checked, replaced while connections go on, or made by ourselves.

The context that listeners hold stays the same one; each handshake is handed the certificate of the
moment. So open sessions keep theirs, and a certificate that cannot be used changes nothing.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SELF_SIGNED_DAYS = 365
RENEW_DAYS = 30  # before its end
_SKEW = dt.timedelta(days=1)  # clocks of clients
_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700
_MAX_NAME_CHARACTERS = 64  # of a common name (RFC 5280, ub-common-name)


class CertificateError(ValueError):
    """A certificate or key that cannot be used; `of_key` says which of the two files."""

    def __init__(self, words: str, *, of_key: bool) -> None:
        super().__init__(words)
        self.of_key = of_key


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files; both may be the same one."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What people are told of a certificate."""

    fingerprint: str  # SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` shows it
    ends_at: dt.datetime


class ServerCertificate:
    """What a listener shows its clients. Raises CertificateError."""

    def __init__(self, files: CertificateFiles) -> None:
        self.files = files
        self._current, self.facts = _loaded(files)
        self.context, _ = _loaded(files)
        self.context.sni_callback = self._hand_over

    def reload(self) -> bool:
        """Read the files again; whether it is another certificate. Raises CertificateError."""
        current, facts = _loaded(self.files)
        changed = facts != self.facts
        self._current, self.facts = current, facts
        return changed

    def _hand_over(
        self, handshake: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> None:
        """Python calls this for each handshake, with or without a name from the client."""
        handshake.context = self._current


def check_certificate(files: CertificateFiles) -> CertificateFacts:
    """Tell what a listener would show. Raises CertificateError."""
    return _loaded(files)[1]


def ensure_self_signed(
    folder: Path, host_name: str, now: Callable[[], dt.datetime] | None = None
) -> CertificateFiles:
    """Return a certificate of our own, made anew when there is none or it ends soon.

    Several processes may do this at once: the file is whole at any time. Raises OSError.
    """
    path = folder / "self-signed.pem"  # one file, so that key and certificate change together
    files = CertificateFiles(path, path)
    at = (now or _now)()
    try:
        ends_at = check_certificate(files).ends_at
    except CertificateError:  # none, or damaged: it is ours to replace
        ends_at = at
    if ends_at - at > dt.timedelta(days=RENEW_DAYS):
        return files
    folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    scratch = folder / f".self-signed.{os.getpid()}.new"
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_self_signed(host_name, at))
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    return files


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _loaded(files: CertificateFiles) -> tuple[ssl.SSLContext, CertificateFacts]:
    certificate = _certificate(files.certificate)
    public = _public_key(files.key)
    if public != _der(certificate):
        raise CertificateError("is not the key of the certificate", of_key=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ssl.SSLError) as error:  # too weak a key, a file that was changed just now
        raise CertificateError(f"cannot be used: {error}", of_key=False) from error
    print_ = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return context, CertificateFacts(print_, certificate.not_valid_after_utc)


def _certificate(path: Path) -> x509.Certificate:
    octets = _read(path, of_key=False)
    try:
        certificate = x509.load_pem_x509_certificates(octets)[0]
        _der(certificate)  # its key is read only now
    except Exception as error:  # the library has several for what it cannot read
        raise CertificateError("has no PEM certificate that can be read", of_key=False) from error
    return certificate


def _public_key(path: Path) -> bytes:
    octets = _read(path, of_key=True)
    try:
        key = serialization.load_pem_private_key(octets, None)
    except TypeError as error:
        raise CertificateError(
            "is encrypted; give a key without a passphrase", of_key=True
        ) from error
    except Exception as error:  # several, too
        raise CertificateError("has no PEM private key that can be read", of_key=True) from error
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _read(path: Path, *, of_key: bool) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot be read: {error.strerror}", of_key=of_key) from error


def _self_signed(host_name: str, at: dt.datetime) -> bytes:
    """Return key and certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_name[:_MAX_NAME_CHARACTERS])])
    names: list[x509.GeneralName] = [
        x509.DNSName(name) for name in dict.fromkeys((host_name, "localhost"))
    ]
    names += [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _SKEW)
        .not_valid_after(at + dt.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
