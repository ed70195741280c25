"""Content is sacred: what Postfix stored is what the client sent, with our fields on top."""

from __future__ import annotations

import time

import pytest

from tests.support.messages import every_shape, of_size
from tests.support.peer import mail_params, wait_mails
from tests.support.postfix import Postfix
from tests.support.relay import Relay
from tests.support.smtp_client import SmtpDialogue
from tests.support.stored import compare, take_field

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="session")]

LARGE_BYTES = 20 * 1024 * 1024


async def test_every_shape_of_mail_is_stored_octet_for_octet(
    relay: Relay, postfix: Postfix, domain: str
) -> None:
    sent = {f"{shape.name}@{domain}": shape for shape in every_shape()}
    queue_ids = {}
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        for recipient, shape in sent.items():
            submitted = await dialogue.submit(
                "ada@sender.test", [recipient], shape.content, mail_params=mail_params(shape)
            )
            assert submitted.accepted, (shape.name, submitted)
            queue_ids[recipient] = submitted.queue_id
        await dialogue.quit()
    mails = await wait_mails(postfix, len(sent), domain=domain)

    assert sorted(mail.recipient for mail in mails) == sorted(sent)
    differences = {}
    for mail in mails:
        shape = sent[mail.recipient]
        found = compare(postfix.tidied(shape.content), mail.content)
        if found.difference:
            differences[shape.name] = found.difference
        assert found.received.queue_id == queue_ids[mail.recipient]
        assert found.received.recipient == mail.recipient
        assert found.received.by == "relay.test"
        assert found.received.origin == "client.test ([127.0.0.1])"
        assert found.received.protocol == ("UTF8SMTP" if shape.needs_smtputf8 else "ESMTP")
        assert abs(found.received.date.timestamp() - time.time()) < 60
    assert differences == {}


async def test_postfix_alone_changes_what_it_is_known_to_tidy_and_no_more(
    postfix: Postfix, domain: str
) -> None:
    date = b"Tue, 02 Jan 2024 03:04:05 +0000"
    trace = b"Received: from here.test ([192.0.2.1])\r\n\tby there.test;\r\n\t" + date + b"\r\n"
    sent = {f"{shape.name}@{domain}": shape for shape in every_shape()}
    async with SmtpDialogue.greeted("127.0.0.1", postfix.port) as dialogue:
        for recipient, shape in sent.items():
            submitted = await dialogue.submit(
                "a@b.test", [recipient], trace + shape.content, mail_params=mail_params(shape)
            )
            assert submitted.accepted, (shape.name, submitted)
    for mail in await wait_mails(postfix, len(sent), domain=domain):
        assert mail.content == trace + postfix.tidied(sent[mail.recipient].content)


@pytest.mark.timeout(90)
async def test_an_attachment_of_20_mb_is_stored_octet_for_octet(
    relay: Relay, postfix: Postfix, domain: str
) -> None:
    content = of_size(LARGE_BYTES)
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        dialogue.limit_seconds = 30.0
        params = f"SIZE={LARGE_BYTES}"
        submitted = await dialogue.submit(
            "ada@sender.test", [f"bo@{domain}"], content, mail_params=params
        )
    assert submitted.accepted
    [mail] = await wait_mails(postfix, 1, 40, domain=domain)

    assert compare(content, mail.content).difference == ""


async def test_missing_date_and_message_id_are_made_from_the_submission(
    relay: Relay, postfix: Postfix, domain: str
) -> None:
    content = b"From: ada@sender.test\r\nSubject: bare\r\n\r\ntext\r\n"
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        submitted = await dialogue.submit("ada@sender.test", [f"bo@{domain}"], content)
    [mail] = await wait_mails(postfix, 1, domain=domain)

    found = compare(content, mail.content)
    assert (found.added_date, found.added_message_id, found.difference) == (True, True, "")
    _, _, below_received = take_field(mail.content)
    _, date, below_date = take_field(below_received)
    _, message_id, _ = take_field(below_date)
    assert date == f"Date: {found.received.date:%a, %d %b %Y %H:%M:%S} +0000\r\n".encode()
    assert message_id == f"Message-ID: <{submitted.queue_id}@relay.test>\r\n".encode()


async def test_with_several_recipients_the_received_field_names_none_of_them(
    relay: Relay, postfix: Postfix, domain: str
) -> None:
    shape = every_shape()[0]
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        await dialogue.submit("ada@sender.test", [f"bo@{domain}", f"cy@{domain}"], shape.content)
    for mail in await wait_mails(postfix, 2, domain=domain):
        found = compare(shape.content, mail.content)
        assert (found.received.recipient, found.difference) == ("", "")
        assert f"cy@{domain}".encode() not in mail.content
