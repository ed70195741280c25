"""STARTTLS to Postfix, with the certificate verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.messages import of_size
from tests.support.peer import wait_mails
from tests.support.policy_service import PolicyService
from tests.support.postfix import PostfixOptions, running_postfix
from tests.support.relay import forwarding_to, running_relay
from tests.support.smtp_client import SmtpDialogue
from tests.support.stored import compare
from tests.support.wait import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="session")]

CONTENT = of_size(200_000)


async def test_mail_goes_to_postfix_over_tls_verified_by_forward_ca_file(
    tmp_path: Path, policy: PolicyService, domain: str
) -> None:
    certificates = make_certificates(tmp_path / "tls")
    options = PostfixOptions(certificate=certificates.server, policy_port=policy.port)
    async with (
        running_postfix(options) as postfix,
        running_relay(
            tmp_path, **forwarding_to(postfix.port), forwardCAFile=str(certificates.authority)
        ) as relay,
    ):
        async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
            await dialogue.submit("ada@sender.test", [f"bo@{domain}"], CONTENT)
        [mail] = await wait_mails(postfix, 1)

    assert compare(CONTENT, mail.content).difference == ""
    assert b"using TLSv1.3" in mail.peer_received
    assert b"with ESMTPS" in mail.peer_received
    assert policy.asked_for(domain)[0]["encryption_protocol"] == "TLSv1.3"


async def test_a_postfix_whose_certificate_cannot_be_verified_gets_nothing(
    tmp_path: Path, policy: PolicyService, domain: str
) -> None:
    certificates = make_certificates(tmp_path / "tls")
    options = PostfixOptions(certificate=certificates.self_signed, policy_port=policy.port)
    async with (
        running_postfix(options) as postfix,
        running_relay(
            tmp_path, **forwarding_to(postfix.port), forwardCAFile=str(certificates.authority)
        ) as relay,
    ):
        async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
            await dialogue.submit("ada@sender.test", [f"bo@{domain}"], CONTENT)
        await wait_until(lambda: "4.7.5" in relay.log_text, 10, "the attempt has failed")
        await relay.wait_health(queued_emails=1, failed_emails=0)

        assert policy.asked_for(domain) == []
        assert postfix.count() == 0
