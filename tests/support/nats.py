"""A real nats-server with the relay's identities and rights, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import nkeys
import psutil

from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role, rights_of
from mailrelay.queue.streams import QueueLimits, ensure, stream_configs
from mailrelay.runtime.logging import Logger
from tests.support.ports import free_port

_START_SECONDS = 10.0

LIMITS = QueueLimits(
    store_bytes=512 * 1024 * 1024,
    queue_size=1000,
    capture_max_messages=100,
    capture_drops_oldest=False,
)


class NatsServer:
    """One server on one folder and port; it can be stopped in any way and started again."""

    def __init__(self, executable: Path, folder: Path, prefix: str = "mailrelay") -> None:
        self._executable = executable
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.prefix = prefix
        self.names = Names(prefix)
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        folder.mkdir(parents=True)
        self._write_config()

    def connection_settings(self, role: Role) -> ConnectionSettings:
        """How a role connects."""
        return ConnectionSettings(self.url, role.value, self.seed_file(role), self.prefix)

    def seed_file(self, role: Role) -> Path:
        """A role's credential."""
        return self._folder / f"{role.value}.seed"

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            [self._executable, "-c", self._folder / "nats.conf", "-l", self._folder / "nats.log"],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self._folder / "nats.log").read_text()
                assert time.monotonic() < deadline, "nats-server does not listen"
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def lose_data(self, log: Logger, limits: QueueLimits = LIMITS) -> None:
        """Kill it and start it on an empty folder, with streams made anew."""
        self.kill()
        shutil.rmtree(self._folder / "store")
        self.start()
        await self.ensure(log, limits)

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_START_SECONDS)
            self._process = None

    def freeze(self) -> None:
        """Let it hang: connections stand and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + _START_SECONDS
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline, "nats-server does not stand still"
            time.sleep(0.005)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def unable_to_write(self) -> Iterator[None]:
        """Let every write of new octets fail for a `with` block, as on a full disk."""
        assert self._process is not None
        with unable_to_write(self._process.pid):
            yield

    def written_ack_floor(self, stream: str, consumer: str) -> int:
        """The ack floor of a consumer that stands on disk, which is what a killed server has left.

        The server writes it some 100 ms behind an ack, and tells nobody. Seen of 2.15.1: the file
        begins with a magic octet, a version, and the floor by the consumer's and the stream's
        count.
        """
        streams = self._folder / "store" / "jetstream" / "$G" / "streams"
        octets = iter((streams / stream / "obs" / consumer / "o.dat").read_bytes()[2:])
        try:
            _uvarint(octets)
            return _uvarint(octets)
        except StopIteration:  # it is being written
            return 0

    @property
    def pid(self) -> int:
        """The running server's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    @contextlib.asynccontextmanager
    async def connected(self, role: Role, log: Logger) -> AsyncIterator[QueueConnection]:
        """A role's connection for a `with` block."""
        connection = await open_connection(self.connection_settings(role), log)
        try:
            yield connection
        finally:
            await connection.close()

    def reset(self, log: Logger, limits: QueueLimits = LIMITS) -> None:
        """Make the streams as a test expects to find them: there, of that size, and empty."""
        asyncio.run(self._reset(log, limits))

    async def ensure(self, log: Logger, limits: QueueLimits) -> None:
        """Make the streams."""
        async with self.connected(Role.ADMIN, log) as admin:
            await ensure(admin, limits)

    async def purge(self, log: Logger, stream: str) -> None:
        """Empty a stream."""
        async with self.connected(Role.ADMIN, log) as admin:
            await admin.api(f"STREAM.PURGE.{stream}")

    async def _reset(self, log: Logger, limits: QueueLimits) -> None:
        async with self.connected(Role.ADMIN, log) as admin:
            for config in stream_configs(self.names, limits):
                with contextlib.suppress(Exception):  # not there yet
                    await admin.api(f"STREAM.PURGE.{config['name']}")
            await ensure(admin, limits)

    def _write_config(self) -> None:
        users: dict[bool, list[dict[str, object]]] = {True: [], False: []}
        for role in Role:
            seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
            self.seed_file(role).write_bytes(seed)
            rights = rights_of(role, Names(self.prefix))
            users[role.is_of_system_account].append(
                {
                    "nkey": nkeys.from_seed(bytearray(seed)).public_key.decode(),
                    "permissions": {
                        "publish": list(rights.publish),
                        "subscribe": list(rights.subscribe),
                    },
                }
            )
        config = {
            "host": "127.0.0.1",
            "port": self.port,
            "max_payload": 8 * 1024 * 1024,
            "jetstream": {
                "store_dir": str(self._folder / "store"),
                "max_file_store": 1024**3,
                "sync_interval": "always",
            },
            "authorization": {"users": users[False]},
            "accounts": {"$SYS": {"users": users[True]}},
        }
        (self._folder / "nats.conf").write_text(json.dumps(config))


@contextlib.contextmanager
def unable_to_write(pid: int) -> Iterator[None]:
    """Forbid a process files of any size for a `with` block (the process may end meanwhile)."""
    process = psutil.Process(pid)
    soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))


def limits(**changes: int) -> QueueLimits:
    """The tests' sizes with some of them changed."""
    return replace(LIMITS, **changes)  # type: ignore[arg-type]


def _uvarint(octets: Iterator[int]) -> int:
    value = shift = 0
    while (octet := next(octets)) & 0x80:
        value |= (octet & 0x7F) << shift
        shift += 7
    return value | octet << shift
