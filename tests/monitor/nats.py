"""A real nats-server with the relay's identities and rights, for as long as a test needs it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import nkeys

from mailrelay.queue.connection import ConnectionSettings
from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role, rights_of

_START_SECONDS = 10.0


class NatsServer:
    """One server on one folder and port; it can be killed and started again."""

    def __init__(self, executable: Path, folder: Path, prefix: str = "mailrelay") -> None:
        self._executable = executable
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.prefix = prefix
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"nats://127.0.0.1:{self.port}"
        folder.mkdir(parents=True)
        self._write_config()

    def connection_settings(self, role: Role) -> ConnectionSettings:
        return ConnectionSettings(self.url, role.value, self.seed_file(role), self.prefix)

    def seed_file(self, role: Role) -> Path:
        return self._folder / f"{role.value}.seed"

    def start(self) -> None:
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
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _write_config(self) -> None:
        users = []
        for role in Role:
            seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
            self.seed_file(role).write_bytes(seed)
            rights = rights_of(role, Names(self.prefix))
            users.append(
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
            "authorization": {"users": users},
        }
        (self._folder / "nats.conf").write_text(json.dumps(config))
