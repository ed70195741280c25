"""STARTTLS: what it protects, and what of before it is forgotten."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl

from mailrelay.runtime.logging import Logger
from tests.ingress.dialogue import CONTENT, HOST, assert_still_serves, greeted, last_job
from tests.ingress.ingress_process import PASSWORD, USER, Ingress
from tests.support.certificates import Certificates
from tests.support.nats import NatsServer


async def test_what_is_sent_in_the_clear_behind_starttls_is_discarded(
    secure_ingress: Ingress, certificates: Certificates
) -> None:
    async with greeted(secure_ingress) as dialogue:
        dialogue.send_raw(b"STARTTLS\r\nNOOP\r\nRSET\r\nEHLO injected\r\n")
        await dialogue.expect(220)
        await dialogue.shake_hands(certificates.client_context(), "localhost")
        await dialogue.cmd("MAIL FROM:<a@b.test>", 503)  # no EHLO was heard
        await dialogue.ehlo()
        await dialogue.auth_plain(USER, PASSWORD, 235)
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted


async def test_starttls_forgets_what_was_said_before(
    secure_ingress: Ingress, certificates: Certificates, server: NatsServer, log: Logger
) -> None:
    async with greeted(secure_ingress) as dialogue:
        await dialogue.auth_plain(USER, PASSWORD, 235)
        await dialogue.cmd("MAIL FROM:<a@b.test>", 250)
        await dialogue.starttls(certificates.client_context())
        await dialogue.cmd("RCPT TO:<a@b.test>", 503)
        await dialogue.ehlo()
        await dialogue.cmd("MAIL FROM:<a@b.test>", 530)
        assert (await dialogue.cmd("STARTTLS", 503)).enhanced == "5.5.1"
        await dialogue.auth_plain(USER, PASSWORD, 235)
        assert (await dialogue.submit("a@b.test", ["c@d.test"], CONTENT)).accepted
    content = (await last_job(server, log)).content
    assert re.search(rb" with ESMTPSA\r\n\t\(using TLSv1\.[23] with cipher [A-Z0-9_-]+\)", content)


async def test_a_command_in_one_packet_with_the_end_of_the_handshake_is_heard(
    secure_ingress: Ingress, certificates: Certificates
) -> None:
    """TLS 1.3 lets a client send its first command right behind its Finished."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection((HOST, secure_ingress.port), 5) as sock:
        sock.recv(1000)
        sock.sendall(b"EHLO x\r\n")
        said = b""
        while b"250 " not in said:
            said += sock.recv(1000)
        sock.sendall(b"STARTTLS\r\n")
        assert sock.recv(1000).startswith(b"220")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(b"EHLO behind\r\n")
        sock.sendall(outgoing.read())
        heard = b""
        while b"ENHANCED" not in heard:
            with contextlib.suppress(ssl.SSLWantReadError):
                heard += tls.read()
                continue
            incoming.write(sock.recv(65536))
    assert heard.startswith(b"250-relay.test")


async def test_a_handshake_that_fails_ends_that_connection_only(secure_ingress: Ingress) -> None:
    async with greeted(secure_ingress) as dialogue:
        await dialogue.cmd("STARTTLS", 220)
        dialogue.send_raw(b"EHLO in the clear\r\n" * 20)
        with contextlib.suppress(AssertionError):
            await dialogue.expect_closed()
    await assert_still_serves(secure_ingress)
