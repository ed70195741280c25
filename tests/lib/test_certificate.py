from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mailrelay.runtime.certificate import (
    CertificateError,
    CertificateFiles,
    ServerCertificate,
    check_certificate,
    ensure_self_signed,
)
from tests.support.certificates import Certificates, make_certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_a_certificate_of_our_own_is_made_once_and_kept_private(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    files = ensure_self_signed(folder, "relay.test")
    first = files.certificate.read_bytes()
    assert ensure_self_signed(folder, "relay.test") == files
    assert files.certificate.read_bytes() == first
    assert files.certificate.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in folder.iterdir()] == ["self-signed.pem"]
    facts = check_certificate(files)
    left = facts.ends_at - dt.datetime.now(dt.UTC)
    assert 364 <= left.days <= 365
    assert len(facts.fingerprint) == 32 * 3 - 1


def test_it_is_made_anew_before_its_end_and_when_it_is_damaged(tmp_path: Path) -> None:
    files = ensure_self_signed(tmp_path, "relay.test")
    first = check_certificate(files).fingerprint
    now = dt.datetime.now(dt.UTC)
    ensure_self_signed(tmp_path, "relay.test", lambda: now + dt.timedelta(days=334))
    assert check_certificate(files).fingerprint == first
    later = now + dt.timedelta(days=336)
    ensure_self_signed(tmp_path, "relay.test", lambda: later)
    second = check_certificate(files)
    assert second.fingerprint != first
    assert (second.ends_at - later).days == 364
    files.certificate.write_text("rubbish")
    ensure_self_signed(tmp_path, "relay.test")
    assert check_certificate(files).fingerprint not in {first, second.fingerprint}


def test_files_that_cannot_be_used_are_told_apart(
    tmp_path: Path, certificates: Certificates
) -> None:
    good = certificates.server
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    for certificate, key, of_key, words in (
        (tmp_path / "absent", good.key, False, "cannot be read: No such file"),
        (good.certificate, tmp_path / "absent", True, "cannot be read: No such file"),
        (tmp_path, good.key, False, "cannot be read: Is a directory"),
        (rubbish, good.key, False, "has no PEM certificate that can be read"),
        (good.key, good.key, False, "has no PEM certificate that can be read"),
        (good.certificate, rubbish, True, "has no PEM private key that can be read"),
        (good.certificate, certificates.expired.key, True, "is not the key of the certificate"),
        (good.certificate, encrypted, True, "is encrypted; give a key without a passphrase"),
    ):
        with pytest.raises(CertificateError, match=words) as caught:
            check_certificate(CertificateFiles(certificate, key))
        assert caught.value.of_key is of_key, words


def test_tls_below_1_2_is_not_spoken(certificates: Certificates) -> None:
    shown = ServerCertificate(
        CertificateFiles(certificates.server.certificate, certificates.server.key)
    )
    assert shown.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert shown._current.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("octets", "others"),
    [
        ("06072a8648ce3d0201", "06072a8648ce3d027f"),  # the key's algorithm
        ("06082a8648ce3d030107", "06082a8648ce3d03017f"),  # its curve
        ("03420004", "03420009"),  # the point on it
        ("a003020102", "a003020109"),  # the version
    ],
    ids=["algorithm", "curve", "point", "version"],
)
def test_a_certificate_of_a_kind_that_nobody_knows_is_a_fault_of_the_file(
    octets: str, others: str, tmp_path: Path
) -> None:
    """Anything else would end the process that watches the file."""
    own = ensure_self_signed(tmp_path, "relay.test").certificate.read_bytes()
    der = ssl.PEM_cert_to_DER_cert(own[own.index(b"-----BEGIN CERTIFICATE") :].decode())
    changed = der.replace(bytes.fromhex(octets), bytes.fromhex(others), 1)
    assert changed != der
    odd = tmp_path / "odd.pem"
    odd.write_text(ssl.DER_cert_to_PEM_cert(changed))
    with pytest.raises(CertificateError) as refused:
        check_certificate(CertificateFiles(odd, tmp_path / "self-signed.pem"))
    assert not refused.value.of_key
