"""Clients that would hold a connection for longer than they may."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

from mailrelay_ingress.listener import protocol
from tests.ingress.dialogue import HOST
from tests.ingress.ingress_process import Ingress
from tests.ingress.test_trouble import served_here
from tests.support.wait import wait_until


def _read_line(sock: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"\r\n"):
        said += sock.recv(1000)
    return said


def _in_handshake(port: int) -> socket.socket:
    """Connect, and come as far as the handshake behind STARTTLS."""
    sock = socket.create_connection((HOST, port), 5)
    _read_line(sock)
    sock.sendall(b"STARTTLS\r\n")
    assert _read_line(sock).startswith(b"220")
    return sock


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
async def test_a_client_that_leaves_within_the_handshake_is_no_longer_counted(
    reset: bool,
    secure_ingress: Ingress,
) -> None:
    for _ in range(3):
        sock = _in_handshake(secure_ingress.port)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    await wait_until(
        lambda: secure_ingress.metric("mailrelay_smtp_connections") == 0,
        10,
        "nobody is connected",
    )


async def test_a_client_that_reads_no_reply_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its replies cannot be sent, so an orderly close would never come to its end."""
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "LAST_REPLY_SECONDS", 0.5)
    served = await served_here()
    try:
        with contextlib.closing(socket.socket()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((HOST, served.port))
            client.setblocking(False)  # noqa: FBT003 — its only argument
            loop = asyncio.get_running_loop()
            # EHLO: of all replies the longest, so that the fewest fill what the kernels hold.
            with contextlib.suppress(TimeoutError, ConnectionError):
                while True:  # until nobody reads them any more, or the connection was cut
                    await asyncio.wait_for(loop.sock_sendall(client, b"EHLO x\r\n" * 500), 1)
            await wait_until(lambda: served.connections == 0, 20, "nobody is connected")
    finally:
        await served.stop()
