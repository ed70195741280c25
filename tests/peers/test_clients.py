"""The relay as seen by independent clients: curl, swaks, Python's smtplib, and another Postfix.

Each hands mail to the relay in its own way; what Postfix stores behind the relay is what they
were given to send.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.messages import CorpusMessage, every_shape, of_size
from tests.support.peer import mail_params, wait_mails
from tests.support.policy_service import PolicyService
from tests.support.postfix import Postfix, PostfixOptions, running_postfix
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.smtp_client import SmtpDialogue
from tests.support.stored import StoredMail, compare

pytestmark = [pytest.mark.peers, pytest.mark.asyncio(loop_scope="session")]

USER, PASSWORD = "ada", "correct horse battery staple"
LARGE_BYTES = 3_000_000
LIMIT_SECONDS = 20.0
# swaks takes a quarter of a second each.
SWAKS_SHAPES = {"plain_text", "many_dots", "utf8_body", "binary_8bit", "longest_lines", "no_date"}


async def run_client(*command: str | Path) -> str:
    """Run a client to its end; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    text = output.decode(errors="replace")
    assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{text}"
    return text


def differences(
    mails: Iterable[StoredMail], sent: dict[str, bytes], by_way_of: str = ""
) -> dict[str, str]:
    """Which mails are not what was sent, and where."""
    found = {
        mail.recipient: compare(sent[mail.recipient], mail.content, by_way_of=by_way_of).difference
        for mail in mails
    }
    return {recipient: difference for recipient, difference in found.items() if difference}


def addressed(shapes: Iterable[CorpusMessage], domain: str) -> dict[str, CorpusMessage]:
    """Give each shape a recipient of its own."""
    return {f"{shape.name}@{domain}": shape for shape in shapes}


async def test_curl_hands_over_every_shape_that_it_can_name(
    relay: Relay, postfix: Postfix, tmp_path: Path, domain: str
) -> None:
    # curl declares SMTPUTF8 by the addresses alone, so it cannot say it for a header section.
    shapes = addressed((s for s in every_shape() if not s.needs_smtputf8), domain)
    for recipient, shape in shapes.items():
        (tmp_path / "mail").write_bytes(shape.content)
        await run_client(
            *("curl", "--silent", "--show-error", "--url", f"smtp://127.0.0.1:{relay.smtp_port}"),
            *("--mail-from", "ada@sender.test", "--mail-rcpt", recipient),
            *("--upload-file", tmp_path / "mail"),
        )
    mails = await wait_mails(postfix, len(shapes), domain=domain)

    sent = {recipient: postfix.tidied(shape.content) for recipient, shape in shapes.items()}
    assert differences(mails, sent) == {}


async def test_swaks_hands_over_mail_with_dots_octets_and_long_lines(
    relay: Relay, postfix: Postfix, tmp_path: Path, domain: str
) -> None:
    wanted = (s for s in every_shape() if s.name.removesuffix("-0") in SWAKS_SHAPES)
    shapes = addressed(wanted, domain)
    assert len(shapes) == len(SWAKS_SHAPES)
    for recipient, shape in shapes.items():
        # swaks takes the machine's own line ends, and adds one behind the last line.
        lines = shape.content.removesuffix(b"\r\n").replace(b"\r\n", b"\n")
        (tmp_path / "mail").write_bytes(lines)
        text = await run_client(
            *("swaks", "--server", "127.0.0.1", "--port", str(relay.smtp_port)),
            *("--helo", "swaks.test", "--from", "ada@sender.test", "--to", recipient),
            *("--suppress-data", "--data", f"@{tmp_path / 'mail'}"),
        )
        assert "queued as" in text
    mails = await wait_mails(postfix, len(shapes), domain=domain)

    sent = {recipient: shape.content for recipient, shape in shapes.items()}
    assert differences(mails, sent) == {}


async def test_smtplib_hands_over_every_shape_on_one_connection(
    relay: Relay, postfix: Postfix, domain: str
) -> None:
    shapes = addressed(every_shape(), domain)

    def send_all() -> None:
        with smtplib.SMTP("127.0.0.1", relay.smtp_port, timeout=LIMIT_SECONDS) as client:
            for recipient, shape in shapes.items():
                refused = client.sendmail(
                    "ada@sender.test", [recipient], shape.content, mail_params(shape).split()
                )
                assert refused == {}

    await asyncio.to_thread(send_all)
    mails = await wait_mails(postfix, len(shapes), domain=domain)

    sent = {recipient: postfix.tidied(shape.content) for recipient, shape in shapes.items()}
    assert differences(mails, sent) == {}


async def test_curl_swaks_and_smtplib_submit_with_starttls_and_auth(
    tmp_path: Path, postfix: Postfix, domain: str
) -> None:
    certificates = make_certificates(tmp_path / "tls")
    content = of_size(40_000)
    (tmp_path / "mail").write_bytes(content)
    changes = forwarding_to(postfix.port) | {
        "security": {"requireAuth": True, "logAllEmails": False},
        "defaultUsername": USER,
        "defaultPassword": PASSWORD,
        "tls": {
            "certFile": str(certificates.server.certificate),
            "keyFile": str(certificates.server.key),
        },
    }
    async with running_relay(tmp_path, **changes) as relay:
        port = relay.smtp_port
        await run_client(
            *("curl", "--silent", "--show-error", "--url", f"smtp://localhost:{port}"),
            *("--ssl-reqd", "--cacert", certificates.authority, "--user", f"{USER}:{PASSWORD}"),
            *("--mail-from", "ada@sender.test", "--mail-rcpt", f"curl@{domain}"),
            *("--upload-file", tmp_path / "mail"),
        )
        for mechanism in ("PLAIN", "LOGIN"):
            await run_client(
                *("swaks", "--server", "127.0.0.1", "--port", str(port), "--helo", "swaks.test"),
                *("--tls", "--tls-verify", "--tls-ca-path", certificates.authority),
                *("--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD),
                *("--from", "ada@sender.test", "--to", f"swaks.{mechanism}@{domain}"),
                *("--suppress-data", "--body", "hello"),
            )

        def send() -> None:
            context = ssl.create_default_context(cafile=certificates.authority)
            with smtplib.SMTP("127.0.0.1", port, timeout=LIMIT_SECONDS) as client:
                client.starttls(context=context)
                client.login(USER, PASSWORD)
                client.sendmail("ada@sender.test", [f"smtplib@{domain}"], content)

        await asyncio.to_thread(send)
        mails = {mail.recipient: mail for mail in await wait_mails(postfix, 4, domain=domain)}

    assert sorted(mails) == sorted(
        f"{name}@{domain}" for name in ("curl", "smtplib", "swaks.LOGIN", "swaks.PLAIN")
    )
    for name in ("curl", "smtplib"):
        found = compare(content, mails[f"{name}@{domain}"].content)
        assert found.difference == ""
        assert found.received.protocol == "ESMTPSA"
        assert "TLSv1.3" in found.received.comment


async def test_another_postfix_hands_on_every_shape_through_the_relay(
    relay: Relay, postfix: Postfix, domain: str
) -> None:
    shapes = addressed(every_shape(), domain)
    large = f"large@{domain}"
    sent = {recipient: postfix.tidied(shape.content) for recipient, shape in shapes.items()}
    sent[large] = of_size(LARGE_BYTES)
    name = "client.peer.test"
    async with running_postfix(PostfixOptions(name=name, relay_port=relay.smtp_port)) as client:
        async with SmtpDialogue.greeted("127.0.0.1", client.port) as dialogue:
            for recipient, shape in shapes.items():
                submitted = await dialogue.submit(
                    "ada@sender.test", [recipient], shape.content, mail_params=mail_params(shape)
                )
                assert submitted.accepted, submitted
            await dialogue.submit("ada@sender.test", [large], sent[large])
        mails = await wait_mails(postfix, len(sent), domain=domain)

    assert sorted(mail.recipient for mail in mails) == sorted(sent)
    assert differences(mails, sent, by_way_of=name) == {}
    origins = {compare(sent[m.recipient], m.content, by_way_of=name).received.origin for m in mails}
    assert origins == {f"{name} ([127.0.0.1])"}


async def test_another_postfix_hands_on_45_recipients_by_pipelining(
    relay: Relay, postfix: Postfix, policy: PolicyService, domain: str
) -> None:
    recipients = [f"r{n:02}@{domain}" for n in range(45)]
    content = of_size(3_000)
    name = "client.peer.test"
    async with running_postfix(PostfixOptions(name=name, relay_port=relay.smtp_port)) as client:
        async with SmtpDialogue.greeted("127.0.0.1", client.port) as dialogue:
            submitted = await dialogue.submit("ada@sender.test", recipients, content)
            assert submitted.accepted, submitted
        mails = await wait_mails(postfix, len(recipients), domain=domain)

    assert sorted(mail.recipient for mail in mails) == recipients
    # One transaction of the client's: one queue id of the relay's in all 45 copies.
    found = [compare(content, mail.content, by_way_of=name) for mail in mails]
    assert {comparison.difference for comparison in found} == {""}
    assert len({comparison.received.queue_id for comparison in found}) == 1
    assert sorted(policy.recipients(domain)) == recipients
