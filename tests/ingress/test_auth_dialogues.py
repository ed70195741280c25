"""What AUTH answers: with a password, from elsewhere, to rubbish, and when nothing can be checked.

Where a client is to be from elsewhere the listener runs in this process: its address is made up.
"""

from __future__ import annotations

import base64

import pytest

from mailrelay.runtime.certificate import CertificateFiles, ServerCertificate
from mailrelay.runtime.logging import Logger
from mailrelay_ingress import authentication
from mailrelay_ingress.listener import protocol
from tests.ingress.dialogue import CONTENT, HOST, greeted, last_job
from tests.ingress.ingress_process import PASSWORD, USER, Ingress
from tests.ingress.test_trouble import served_here
from tests.support.certificates import Certificates
from tests.support.nats import NatsServer
from tests.support.smtp_client import SmtpDialogue


async def test_without_authentication_mail_is_refused(secure_ingress: Ingress) -> None:
    async with greeted(secure_ingress) as dialogue:
        reply = await dialogue.cmd("MAIL FROM:<a@b.test>", 530)
        assert reply.enhanced == "5.7.0"


async def test_authentication_works_with_plain_and_login(
    secure_ingress: Ingress, server: NatsServer, log: Logger
) -> None:
    user, password = (base64.b64encode(text.encode()).decode() for text in (USER, PASSWORD))
    async with greeted(secure_ingress) as dialogue:
        assert (await dialogue.auth_plain(USER, PASSWORD, 235)).enhanced == "2.7.0"
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted
        await dialogue.cmd("AUTH PLAIN x", 503)
    assert b" with ESMTPA\r\n" in (await last_job(server, log)).content
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("AUTH LOGIN", 334)
        await dialogue.cmd(user, 334)
        await dialogue.cmd(password, 235)
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd(f"AUTH LOGIN {user}", 334)
        await dialogue.cmd(password, 235)
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("auth plain", 334)
        whole = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
        await dialogue.cmd(whole, 235)


@pytest.mark.parametrize(
    ("user", "password"), [(USER, "wrong"), ("other", PASSWORD), ("", ""), ("\xff", "\0")]
)
async def test_bad_credentials_are_refused(
    user: str, password: str, secure_ingress: Ingress
) -> None:
    async with greeted(secure_ingress) as dialogue:
        reply = await dialogue.auth_plain(user, password)
        assert reply.code in {535, 501}
        assert reply.enhanced
        await dialogue.cmd("MAIL FROM:<a@b.test>", 530)


@pytest.mark.parametrize("line", ["AUTH PLAIN ===", "AUTH PLAIN YQ==", "AUTH CRAM-MD5", "AUTH"])
async def test_rubbish_in_authentication_is_refused(line: str, secure_ingress: Ingress) -> None:
    async with greeted(secure_ingress) as dialogue:
        reply = await dialogue.cmd(line)
        assert reply.code >= 500
        assert reply.enhanced
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("AUTH LOGIN", 334)
        assert (await dialogue.cmd("*")).code >= 500
        await dialogue.cmd("NOOP", 250)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "peer_address", lambda _: "192.0.2.1")


@pytest.mark.usefixtures("elsewhere")
async def test_from_elsewhere_a_password_is_taken_under_tls_only(
    certificates: Certificates,
) -> None:
    pair = certificates.server
    shown = ServerCertificate(CertificateFiles(pair.certificate, pair.key))
    served = await served_here(user="ada", certificate=shown)
    try:
        async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
            assert "AUTH" not in dialogue.extensions
            for line in ("AUTH PLAIN", "AUTH LOGIN", "auth login YWRh"):
                assert (await dialogue.cmd(line, 538)).enhanced == "5.7.11"
            await dialogue.starttls(certificates.client_context())
            await dialogue.ehlo()
            assert set(dialogue.extensions["AUTH"].split()) == {"PLAIN", "LOGIN"}
            await dialogue.auth_plain("ada", "secret", 235)
    finally:
        await served.stop()


@pytest.mark.usefixtures("elsewhere")
async def test_a_password_in_the_clear_can_be_allowed_by_name() -> None:
    served = await served_here(user="ada", allowPlaintextAuth=True)
    try:
        async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
            assert "AUTH" in dialogue.extensions
            await dialogue.auth_plain("ada", "secret", 235)
    finally:
        await served.stop()


@pytest.mark.usefixtures("elsewhere")
async def test_a_network_that_is_allowed_is_served_and_still_needs_tls_for_a_password() -> None:
    served = await served_here(user="ada", local_only=True, allowedNetworks=["192.0.2.0/24"])
    try:
        async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
            assert "AUTH" not in dialogue.extensions
            await dialogue.cmd("MAIL FROM:<a@b.test>", 250)
    finally:
        await served.stop()


async def test_what_cannot_be_checked_is_no_fault_of_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = await served_here(user="ada")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(authentication, "MAX_WAITING", 0)
            async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
                assert (await dialogue.auth_plain("ada", "secret", 454)).enhanced == "4.7.0"
        async with SmtpDialogue.greeted(HOST, served.port) as dialogue:
            await dialogue.auth_plain("ada", "secret", 235)
    finally:
        await served.stop()


async def test_auth_has_no_place_in_a_transaction(secure_ingress: Ingress) -> None:
    async with greeted(secure_ingress) as dialogue:
        await dialogue.auth_plain(USER, PASSWORD, 235)
        await dialogue.cmd("MAIL FROM:<a@b.test>", 250)
        assert (await dialogue.auth_plain(USER, PASSWORD, 503)).enhanced == "5.5.1"
        await dialogue.cmd("RCPT TO:<a@b.test>", 250)


async def test_a_response_that_is_too_long_ends_the_exchange_only(secure_ingress: Ingress) -> None:
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("AUTH PLAIN", 334)
        assert (await dialogue.cmd(b"QUFB" * 2000, 500)).enhanced == "5.5.6"
        await dialogue.auth_plain(USER, PASSWORD, 235)


async def test_a_failed_login_is_told_without_what_was_said(secure_ingress: Ingress) -> None:
    secret = "hunter2-in-the-wrong-place"  # noqa: S105 — of a test
    async with greeted(secure_ingress) as dialogue:
        assert (await dialogue.auth_plain(secret, "x", 535)).enhanced == "5.7.8"
        encoded = base64.b64encode(secret.encode()).decode()
        await dialogue.cmd(f"AUTH CRAM-MD5 {encoded}", 504)
        await dialogue.cmd(f"AUTHPLAIN {encoded}", 500)
    text = secure_ingress.log_text
    assert "smtp.auth_failed" in text
    assert secret not in text
    assert encoded not in text
