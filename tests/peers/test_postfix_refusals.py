"""What Postfix refuses for now is tried again, what it refuses for good is kept, per recipient."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from tests.support.messages import every_shape, of_size
from tests.support.peer import mail_params, wait_mails
from tests.support.policy_service import ACCEPT, PolicyService
from tests.support.postfix import Postfix
from tests.support.relay import Relay
from tests.support.smtp_client import SmtpDialogue
from tests.support.stored import compare
from tests.support.wait import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="session")]

CONTENT = of_size(5_000)
LOCAL_PARTS = ("now1", "later1", "now2", "later2")
# The first retry lane is 5 s long.
RETRY_SECONDS = 30.0


def refusing(reply: str, domain: str) -> Callable[[str], str]:
    """Refuse the later ones of this domain."""
    return lambda recipient: (
        reply if recipient.startswith("later") and recipient.endswith(domain) else ACCEPT
    )


async def test_recipients_answered_450_are_deferred_and_only_they_are_tried_again(
    relay: Relay, postfix: Postfix, policy: PolicyService, domain: str
) -> None:
    recipients = [f"{local_part}@{domain}" for local_part in LOCAL_PARTS]
    policy.decide = refusing("450 4.2.0 Mailbox busy", domain)
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        await dialogue.submit("ada@sender.test", recipients, CONTENT)
    mails = await wait_mails(postfix, 2, domain=domain)
    assert sorted(mail.recipient for mail in mails) == [recipients[0], recipients[2]]
    policy.decide = lambda _: ACCEPT
    mails = await wait_mails(postfix, 4, RETRY_SECONDS, domain=domain)
    await relay.wait_health(queued_emails=0)

    assert sorted(mail.recipient for mail in mails) == sorted(recipients)
    assert all(compare(CONTENT, mail.content).identical for mail in mails)
    attempts = Counter(policy.recipients(domain))
    assert attempts[recipients[0]] == attempts[recipients[2]] == 1
    assert attempts[recipients[1]] >= 2


async def test_recipients_answered_550_are_kept_and_delivered_by_retry_failed(
    relay: Relay, postfix: Postfix, policy: PolicyService, domain: str
) -> None:
    recipients = [f"{local_part}@{domain}" for local_part in LOCAL_PARTS]
    policy.decide = refusing("550 5.1.1 No such user", domain)
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        await dialogue.submit("ada@sender.test", recipients, CONTENT)
    await wait_mails(postfix, 2, domain=domain)
    await relay.wait_health(queued_emails=0, failed_emails=1)
    policy.decide = lambda _: ACCEPT
    answer = await relay.post("/admin/retry-failed")
    assert answer.status_code == 200, answer.text
    mails = await wait_mails(postfix, 4, RETRY_SECONDS, domain=domain)
    await relay.wait_health(queued_emails=0, failed_emails=0)

    assert sorted(mail.recipient for mail in mails) == sorted(recipients)
    assert all(compare(CONTENT, mail.content).identical for mail in mails)
    # What was refused for good was tried again once, and only when asked for.
    assert Counter(policy.recipients(domain)) == dict(zip(recipients, (1, 2, 1, 2), strict=True))


async def test_all_mail_arrives_though_postfix_is_away_for_seconds(
    relay: Relay, postfix: Postfix, domain: str
) -> None:
    shapes = every_shape() * 3
    sent = {f"m{number}@{domain}": shape for number, shape in enumerate(shapes)}
    before = postfix.count()
    away = asyncio.Event()

    async def go_away() -> None:
        await wait_until(lambda: postfix.count() > before + 10, 20, "Postfix has some of the mail")
        await postfix.stop()
        away.set()

    async with (
        asyncio.TaskGroup() as group,
        SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue,
    ):
        group.create_task(go_away())
        for number, (recipient, shape) in enumerate(sent.items()):
            if number == len(sent) // 2:
                await away.wait()
            submitted = await dialogue.submit(
                "ada@sender.test", [recipient], shape.content, mail_params=mail_params(shape)
            )
            assert submitted.accepted, submitted
    await wait_until(
        lambda: any("4.4.1" in line["reply"] for line in relay.log_lines("mail.deferred")),
        20,
        "the relay has noticed that Postfix is away",
    )
    await postfix.start()
    mails = await wait_mails(postfix, len(sent), 45, domain=domain)
    await relay.wait_health(45, queued_emails=0)

    # One that was under way when Postfix was ended may come twice (RFC 5321 section 4.5.5).
    assert {mail.recipient for mail in mails} == set(sent)
    for mail in mails:
        found = compare(postfix.tidied(sent[mail.recipient].content), mail.content)
        assert found.difference == "", sent[mail.recipient].name
