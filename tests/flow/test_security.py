"""A whole relay with TLS of its own, users from a file, and content kept."""

from __future__ import annotations

import asyncio
import email.policy
import smtplib
import ssl
from email.message import EmailMessage
from pathlib import Path

import pytest

from mailrelay.config.users import Line, hash_password, write_lines
from tests.support.ports import free_port
from tests.support.relay import running_relay
from tests.support.wait import wait_until

SECRET = "correct horse"  # noqa: S105 — of a test


def send(port: int, secret: str) -> str:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    message = EmailMessage()
    message["Subject"] = "kept"
    message.set_content("Line.\n.dot\n")
    with smtplib.SMTP_SSL("127.0.0.1", port, timeout=20, context=context) as client:
        client.login("grace", secret)
        client.mail("a@b.test")
        client.rcpt("c@d.test")
        code, answer = client.data(message.as_bytes(policy=email.policy.SMTP))
        assert code == 250, answer
    return answer.decode().rpartition(" ")[2]


@pytest.mark.timeout(120)
async def test_mail_over_tls_by_a_user_of_the_file_is_kept_and_shown(tmp_path: Path) -> None:
    users = tmp_path / "users"
    write_lines(users, [Line(f"grace:{hash_password(SECRET)}", "grace")])
    port = free_port()
    async with running_relay(
        tmp_path,
        tls={"selfSigned": True, "smtpsPort": port},
        security={"requireAuth": True, "logAllEmails": True, "usersFile": str(users)},
    ) as relay:
        assert relay.run_file().smtps == [f"127.0.0.1:{port}"]
        assert f"or to         127.0.0.1:{port} (SMTP in TLS)" in relay.console()
        assert "certificate   self-signed, until 20" in relay.console()
        (told,) = relay.log_lines("tls.certificate")
        assert f"SHA-256 {told['sha256']}" in relay.console()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            await asyncio.to_thread(send, port, "wrong")
        queue_id = await asyncio.to_thread(send, port, SECRET)
        path = f"/api/messages/{queue_id}/content"

        async def is_shown() -> bool:
            return (await relay.get(path)).status_code == 200

        await wait_until(is_shown, 10, "the content is kept")
        answer = await relay.get(path)
        assert answer.headers["content-type"] == "message/rfc822"
        assert f'filename="{queue_id}.eml"' in answer.headers["content-disposition"]
        assert answer.content.endswith(b"\r\n\r\nLine.\r\n.dot\r\n")
        assert (await relay.get("/api/messages/nothing/content")).status_code == 404
        relay.kill("ingress")  # the sockets stay, and so does the certificate

        async def takes_mail() -> bool:
            return bool(await asyncio.to_thread(send, port, SECRET))

        await wait_until(takes_mail, 20, "mail is taken again")
        assert {line["sha256"] for line in relay.log_lines("tls.certificate")} == {told["sha256"]}
        assert SECRET not in relay.log_text + relay.console()
