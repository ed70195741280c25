"""Clients that would hold a connection for longer than they may."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.ingress.ingress_process import Ingress
from tests.ingress.test_dialogues import HOST
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
    reset: bool,  # noqa: FBT001 — a plain yes or no
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
