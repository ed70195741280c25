"""Connections from one network namespace to another: who listens, and who gets through.

A socket belongs for good to the network that it was made in, so one process has sockets in the
networks of all pods and needs no program in any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, cast

from tests.cluster.flow_rules import Door, Place, Try

_CLONE_NEWNET: Final = 0x40000000  # <linux/sched.h>
_libc = ctypes.CDLL(None, use_errno=True)
# An answer of the kernel takes microseconds. This is for what is not answered: a packet that is
# dropped instead of refused, and a machine that is busy.
MADE_SECONDS: Final = 30.0
DENIED_SECONDS: Final = 5.0
_AT_ONCE: Final = 200
_ASK_AGAIN_SECONDS: Final = 1.0
# A question for the root's name servers, which a name server answers in any way it likes.
_QUESTION: Final = bytes.fromhex("4d5201000001000000000000" + "00" + "00020001")

Networks = Mapping[str, Path]  # by address: the namespace's file


def socket_in(network: Path | None, kind: socket.SocketKind) -> socket.socket:
    """Make a socket in a network; None is this one's. The thread is elsewhere for a moment."""
    if network is None:
        return _socket(kind)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(network, os.O_RDONLY)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            return _socket(kind)
        finally:
            _enter(here)
    finally:
        os.close(here)


def _socket(kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.settimeout(0)  # asyncio waits for it
    return made


def _enter(network: int) -> None:
    if _libc.setns(network, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


# --- Who listens ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listeners(
    places: Iterable[Place], doors: Iterable[Door], networks: Networks
) -> AsyncIterator[None]:
    """Listen at each door of each place where nobody does: only a policy can keep one out."""
    loop = asyncio.get_running_loop()
    doors = list(doors)
    async with contextlib.AsyncExitStack() as opened:
        for place in places:
            for door in doors:
                is_stream = door.transport == "TCP"
                kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
                made = socket_in(networks[place.address], kind)
                try:
                    made.bind((place.address, door.port))
                    if is_stream:
                        made.listen(socket.SOMAXCONN)
                except OSError as error:
                    made.close()
                    if error.errno != errno.EADDRINUSE:
                        raise
                    continue  # the pod's own program listens
                if is_stream:
                    server = await asyncio.start_server(_take, sock=made)
                    opened.callback(server.close)
                else:
                    transport, _ = await loop.create_datagram_endpoint(_Echo, sock=made)
                    opened.callback(transport.close)
        yield


async def _take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


# --- Who gets through -------------------------------------------------------------------------


async def see(
    tries: Iterable[Try], networks: Networks, expected: Callable[[Try], bool]
) -> dict[Try, bool]:
    """Try all of them; which were made.

    What is expected decides how long it is waited for, not what is seen.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(tried: Try) -> bool:
        limit = MADE_SECONDS if expected(tried) else DENIED_SECONDS
        async with gate:
            return await _is_made(tried, networks, limit)

    tries = list(tries)
    return dict(zip(tries, await asyncio.gather(*map(one, tries)), strict=True))


async def _is_made(tried: Try, networks: Networks, limit_seconds: float) -> bool:
    is_stream = tried.door.transport == "TCP"
    network = None if tried.source.is_node else networks[tried.source.address]
    kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
    with socket_in(network, kind) as sock:
        if not tried.source.is_node:
            sock.bind((tried.source.address, 0))
        address = (tried.target.address, tried.door.port)
        try:
            async with asyncio.timeout(limit_seconds):
                await (_connect(sock, address) if is_stream else _ask(sock, address))
        except TimeoutError:
            # The kernel may have connected it without our having had time to notice.
            return is_stream and _is_connected(sock)
        except OSError:  # refused, or told that nobody is there
            return False
        return True


async def _connect(sock: socket.socket, address: tuple[str, int]) -> None:
    await asyncio.get_running_loop().sock_connect(sock, address)


async def _ask(sock: socket.socket, address: tuple[str, int]) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)
    while True:
        await loop.sock_sendall(sock, _QUESTION)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_AGAIN_SECONDS):
                await loop.sock_recv(sock, 512)
                return


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
