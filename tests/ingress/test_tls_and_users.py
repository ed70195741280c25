"""Certificates and users that change while an ingress serves, and TLS from the first octet."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.users import Line, hash_password, write_lines
from mailrelay.runtime.certificate import CertificateFiles, check_certificate
from mailrelay.runtime.logging import Logger
from tests.ingress.dialogue import CONTENT, HOST
from tests.ingress.ingress_process import PASSWORD, USER, Ingress, running_ingress
from tests.support.certificates import Certificates
from tests.support.nats import NatsServer, limits
from tests.support.ports import free_port
from tests.support.smtp_client import SmtpDialogue
from tests.support.wait import wait_until

CHANGE_SECONDS = 10.0  # the files are looked at each second, twice


@pytest.fixture(autouse=True)
def queue_with_room(server: NatsServer, log: Logger) -> None:
    """Nobody takes mail out here, and a session may send all the time."""
    server.reset(log, limits(queue_size=100_000))


def fingerprint(port: int, *, implicit: bool) -> str:
    """What a client sees of the certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((HOST, port), 10) as plain:
        if not implicit:
            file = plain.makefile("rb", buffering=0)
            file.readline()
            plain.sendall(b"STARTTLS\r\n")
            assert file.readline().startswith(b"220 ")
        with context.wrap_socket(plain) as secure:
            shown = secure.getpeercert(binary_form=True)
            assert shown is not None
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(shown).hexdigest()


def expected(certificate: Path, key: Path) -> str:
    facts = check_certificate(CertificateFiles(certificate, key))
    return facts.fingerprint.replace(":", "").lower()


def log_events(ingress: Ingress, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in ingress.log_text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def test_tls_from_the_first_octet(
    tmp_path: Path, server: NatsServer, certificates: Certificates
) -> None:
    port = free_port()
    tls = {
        "certFile": str(certificates.server.certificate),
        "keyFile": str(certificates.server.key),
        "smtpsPort": port,
    }
    with running_ingress(
        tmp_path / "ingress",
        server,
        tls=tls,
        defaultUsername=USER,
        defaultPassword=PASSWORD,
        security={"requireAuth": True, "logAllEmails": False},
    ):
        reader, writer = await asyncio.open_connection(
            HOST, port, ssl=certificates.client_context(), server_hostname="localhost"
        )
        dialogue = SmtpDialogue(reader, writer, 10)
        await dialogue.expect(220)
        await dialogue.ehlo()
        assert "STARTTLS" not in dialogue.extensions
        assert "AUTH" in dialogue.extensions
        assert (await dialogue.cmd("STARTTLS", 503)).enhanced == "5.5.1"
        await dialogue.auth_plain(USER, PASSWORD, 235)
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted
        await dialogue.quit()
        await dialogue.close()
        # What speaks no TLS ends its own connection, and nothing else.
        with socket.create_connection((HOST, port), 10) as plain:
            plain.sendall(b"EHLO client.test\r\n")
            assert b"250" not in plain.recv(1000)


async def test_a_new_certificate_is_shown_and_open_sessions_go_on(
    tmp_path: Path, server: NatsServer, certificates: Certificates
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(certificates.server.certificate, certificate)
    shutil.copy(certificates.server.key, key)
    port = free_port()
    tls = {"certFile": str(certificate), "keyFile": str(key), "smtpsPort": port}
    with running_ingress(tmp_path / "ingress", server, tls=tls) as ingress:
        first = expected(certificate, key)
        for implicit, at in ((True, port), (False, ingress.port)):
            assert await asyncio.to_thread(fingerprint, at, implicit=implicit) == first
        stop = asyncio.Event()
        async with SmtpDialogue.greeted(HOST, ingress.port) as dialogue:
            await dialogue.starttls(certificates.client_context())
            await dialogue.ehlo()

            async def send_on() -> int:
                sent = 0
                while not stop.is_set():
                    assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted
                    sent += 1
                return sent

            sending = asyncio.create_task(send_on())
            # A bad pair first: the certificate without its key.
            shutil.copy(certificates.self_signed.certificate, certificate)
            await wait_until(
                lambda: bool(log_events(ingress, "files.unusable")), CHANGE_SECONDS, "a complaint"
            )
            (complaint,) = log_events(ingress, "files.unusable")
            assert complaint["faults"] == [f"tls.keyFile: {key} is not the key of the certificate"]
            assert await asyncio.to_thread(fingerprint, port, implicit=True) == first
            shutil.copy(certificates.self_signed.key, key)
            second = expected(certificate, key)
            assert second != first

            async def is_shown() -> bool:
                return await asyncio.to_thread(fingerprint, port, implicit=True) == second

            await wait_until(is_shown, CHANGE_SECONDS, "the new certificate")
            assert await asyncio.to_thread(fingerprint, ingress.port, implicit=False) == second
            stop.set()
            assert await sending > 0
        shown = [line["sha256"] for line in log_events(ingress, "tls.certificate")]
        assert [each.replace(":", "").lower() for each in shown] == [first, second]


async def test_handshakes_go_on_while_the_certificate_changes(
    tmp_path: Path, server: NatsServer, certificates: Certificates
) -> None:
    certificate, key = tmp_path / "both.pem", tmp_path / "both.pem"
    pairs = [
        pair.certificate.read_bytes() + pair.key.read_bytes()
        for pair in (certificates.server, certificates.self_signed)
    ]
    certificate.write_bytes(pairs[0])
    tls = {"certFile": str(certificate), "keyFile": str(key)}
    with running_ingress(tmp_path / "ingress", server, tls=tls) as ingress:
        seen: set[str] = set()

        async def connect_on() -> None:
            while len(seen) < 2:
                seen.add(await asyncio.to_thread(fingerprint, ingress.port, implicit=False))

        async with asyncio.timeout(CHANGE_SECONDS):
            connecting = [asyncio.create_task(connect_on()) for _ in range(4)]
            await wait_until(lambda: len(seen) == 1, CHANGE_SECONDS, "the first certificate")
            scratch = tmp_path / "new.pem"
            scratch.write_bytes(pairs[1])
            scratch.replace(certificate)
            await asyncio.gather(*connecting)
        assert len(seen) == 2


async def test_a_certificate_of_its_own_is_made_once(tmp_path: Path, server: NatsServer) -> None:
    data_dir = tmp_path / "data"
    shown = []
    for name in ("one", "two"):
        with running_ingress(
            tmp_path / name, server, data_dir=data_dir, tls={"selfSigned": True}
        ) as ingress:
            shown.append(await asyncio.to_thread(fingerprint, ingress.port, implicit=False))
    assert shown[0] == shown[1]
    made = data_dir / "tls" / "self-signed.pem"
    assert made.stat().st_mode & 0o777 == 0o600
    assert expected(made, made) == shown[0]


async def test_users_of_a_file_come_and_go_without_a_restart(
    tmp_path: Path, server: NatsServer
) -> None:
    users = tmp_path / "users"
    lines = [Line(f"grace:{hash_password('secret one')}", "grace")]
    write_lines(users, lines)
    security = {"requireAuth": True, "logAllEmails": False, "usersFile": str(users)}
    with running_ingress(tmp_path / "ingress", server, security=security) as ingress:

        async def answer(name: str, password: str) -> int:
            async with SmtpDialogue.greeted(HOST, ingress.port) as dialogue:
                return (await dialogue.auth_plain(name, password)).code

        assert await answer("grace", "secret one") == 235
        assert await answer("edith", "secret two") == 535
        users.write_text("edith:secret two\n")
        await wait_until(
            lambda: bool(log_events(ingress, "files.unusable")), CHANGE_SECONDS, "a complaint"
        )
        assert "may be a password" in log_events(ingress, "files.unusable")[0]["faults"][0]
        assert await answer("grace", "secret one") == 235
        write_lines(users, [Line(f"edith:{hash_password('secret two')}", "edith")])
        await wait_until(
            lambda: len(log_events(ingress, "users.read")) == 1, CHANGE_SECONDS, "new users"
        )
        assert await answer("edith", "secret two") == 235
        assert await answer("grace", "secret one") == 535
        failed = log_events(ingress, "smtp.auth_failed")
        assert [line["user"] for line in failed] == ["", ""]  # nobody's name at that moment
        for secret in ("secret one", "secret two", "$argon2"):
            assert secret not in ingress.log_text


async def test_guessing_ends_the_connection_and_takes_its_time(
    tmp_path: Path, server: NatsServer
) -> None:
    security = {"requireAuth": True, "logAllEmails": False}
    with running_ingress(
        tmp_path / "ingress",
        server,
        defaultUsername=USER,
        defaultPassword=PASSWORD,
        security=security,
    ) as ingress:

        async def guess(number: int) -> int:
            async with SmtpDialogue.greeted(HOST, ingress.port) as dialogue:
                dialogue.limit_seconds = 30
                reply = await dialogue.auth_plain(USER, f"guess {number}")
                if reply.code == 421:
                    assert reply.enhanced == "4.7.0"
                    await dialogue.expect_closed()
                return reply.code

        codes = await asyncio.gather(*(guess(number) for number in range(40)))
        assert set(codes) == {535, 421}
        assert codes.count(535) <= 10
        # The right password is let in once the pause is over, from an address not turned away.
        assert log_events(ingress, "smtp.auth_failed")[0]["user"] == USER


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"tls": {"certFile": "absent", "keyFile": "absent"}},
            "tls.certFile: absent cannot be read",
        ),
        ({"security": {"requireAuth": True, "usersFile": "absent"}}, "security.usersFile: absent"),
    ],
)
def test_a_file_that_cannot_be_used_starts_nothing(
    changes: dict[str, Any], words: str, tmp_path: Path, server: NatsServer
) -> None:
    with (
        pytest.raises(AssertionError) as caught,
        running_ingress(tmp_path / "ingress", server, **changes),
    ):
        pass
    assert words in str(caught.value)
    assert "Traceback" not in (tmp_path / "ingress" / "log").read_text()
