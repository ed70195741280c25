"""The envelope as Postfix gets it, RCPT by RCPT, and as it stores it."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.support.messages import of_size
from tests.support.peer import wait_mails
from tests.support.policy_service import PolicyService
from tests.support.postfix import Postfix
from tests.support.relay import Relay
from tests.support.smtp_client import SmtpDialogue

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="session")]

CONTENT = of_size(2_000)
DEFAULT_BATCH = 20
DEFAULT_WORKERS = 5


@pytest.mark.parametrize(
    ("reverse_path", "local_part"),
    [
        ("ada@sender.test", "bo"),
        ("", "postmaster"),
        ("bounces+bo=reader.test@Sender.Test", "Bo+tag"),
        ("O'Hara_{x}|y@sender.test", "!#$%&'*+/=?^_`{|}~-"),
    ],
    ids=["plain", "null_reverse_path", "subaddresses", "all_of_atext"],
)
async def test_reverse_path_and_recipient_arrive_as_they_were_given(
    relay: Relay,
    postfix: Postfix,
    policy: PolicyService,
    domain: str,
    reverse_path: str,
    local_part: str,
) -> None:
    recipient = f"{local_part}@{domain}"
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        submitted = await dialogue.submit(reverse_path, [recipient], CONTENT)
    assert submitted.accepted, submitted
    [mail] = await wait_mails(postfix, 1, domain=domain)

    assert (mail.reverse_path, mail.recipient) == (reverse_path, recipient)
    [asked] = policy.asked_for(domain)
    assert (asked["sender"], asked["recipient"]) == (reverse_path, recipient)
    assert asked["helo_name"] == "relay.test"


async def test_addresses_beyond_ascii_arrive_with_smtputf8(
    relay: Relay, postfix: Postfix, policy: PolicyService, domain: str
) -> None:
    recipients = [f"用户@例え.{domain}", f"bo@{domain}", f"δοκιμή@παράδειγμα.{domain}"]
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        submitted = await dialogue.submit(
            "zoë@sender.test", recipients, CONTENT, mail_params="SMTPUTF8"
        )
    assert submitted.accepted, submitted
    mails = await wait_mails(postfix, len(recipients), domain=domain)

    assert policy.recipients(domain) == recipients
    assert sorted(mail.recipient for mail in mails) == sorted(recipients)
    assert {mail.reverse_path for mail in mails} == {"zoë@sender.test"}


async def test_45_recipients_arrive_in_their_order_in_three_transactions(
    relay: Relay, postfix: Postfix, policy: PolicyService, domain: str
) -> None:
    recipients = [f"r{n:02}@{domain}" for n in range(45)]
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        submitted = await dialogue.submit("ada@sender.test", recipients, CONTENT, pipelined=True)
    assert submitted.accepted, submitted
    mails = await wait_mails(postfix, len(recipients), domain=domain)

    assert sorted(mail.recipient for mail in mails) == recipients
    by_transaction: dict[str, list[str]] = defaultdict(list)
    for asked in policy.asked_for(domain):
        by_transaction[asked["instance"]].append(asked["recipient"])
    assert sorted(by_transaction.values()) == [
        recipients[:DEFAULT_BATCH],
        recipients[DEFAULT_BATCH : 2 * DEFAULT_BATCH],
        recipients[2 * DEFAULT_BATCH :],
    ]


async def test_a_recipient_given_twice_gets_the_mail_once(
    relay: Relay, postfix: Postfix, policy: PolicyService, domain: str
) -> None:
    given = [f"bo@{domain}", f"cy@{domain}", f"bo@{domain}", f"cy@{domain.upper()}"]
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        submitted = await dialogue.submit("ada@sender.test", given, CONTENT)
    assert submitted.accepted, submitted
    await relay.wait_health(queued_emails=0)
    mails = await wait_mails(postfix, 2, domain=domain)

    assert policy.recipients(domain) == given[:2]
    assert sorted(mail.recipient for mail in mails) == given[:2]


async def test_postfix_sees_no_more_connections_than_there_are_deliveries_at_once(
    relay: Relay, postfix: Postfix, domain: str
) -> None:
    before = postfix.log_text.count(": connect from")
    recipients = [f"r{n}@{domain}" for n in range(4 * DEFAULT_WORKERS)]
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        for recipient in recipients:
            await dialogue.submit("ada@sender.test", [recipient], CONTENT)
    await wait_mails(postfix, len(recipients), domain=domain)

    assert postfix.log_text.count(": connect from") - before <= DEFAULT_WORKERS
