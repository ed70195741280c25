"""How each process of a relay is started, and when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable

import msgspec

from mailrelay.config.model import RelayConfig
from mailrelay.queue.connection import ConnectionSettings
from mailrelay.queue.errors import QueueError, StreamMismatchError
from mailrelay.queue.rights import Role
from mailrelay.runtime.lifecycle import EXIT_FAILED, LIFELINE_FD, READY_FD
from mailrelay.service import IN_FORCE, OVERRIDES, TLS_MARK
from mailrelay_cli.checked_config import config_file
from mailrelay_cli.log_file import LogFile, logger_into
from mailrelay_cli.nats_config import note_reserved, write_nats_config
from mailrelay_cli.nats_watch import NatsWatch, wait_room
from mailrelay_cli.prepare import Prepared
from mailrelay_cli.queue_step import ensure_queue, queue_limits
from mailrelay_cli.supervisor import ChildSpec, GiveUpError

NATS = "nats"
# Seconds from SIGTERM to SIGKILL. First who takes mail in, last who keeps it.
# A sender gets `processingTimeout` on top: it waits for the answers to final dots.
STOP_SECONDS = {"ingress": 10.0, "sender": 20.0, "monitor": 5.0, NATS: 10.0}
_OWN_VARIABLES = (
    "MAILRELAY_CONFIG",
    "MAILRELAY_DATA_DIR",
    "MAILRELAY_NATS_URL",
    "MAILRELAY_NATS_SEED_FILE",
    "MAILRELAY_LISTEN_FDS",
    "MAILRELAY_PROBE_ADDRESS",
    "MAILRELAY_LOG_FORMAT",
    IN_FORCE,
    OVERRIDES,
    READY_FD,
    LIFELINE_FD,
)
_CONNECT_PAUSE_SECONDS = 0.05


class Children:
    """The processes of one run."""

    def __init__(
        self,
        prepared: Prepared,
        log_file: LogFile,
        lifeline: int,
        tell: Callable[[str, str], None],
    ) -> None:
        """A service ends when `lifeline` closes; `tell` takes a text for people and an event."""
        self._prepared = prepared
        self._config = prepared.config
        self._folder = prepared.folder
        self._log_file = log_file
        self._lifeline = lifeline
        self._tell = tell
        self._queue_was_ready = False
        self._probes = prepared.probe_addresses
        self.url = f"nats://127.0.0.1:{prepared.plan.port}"  # of the queue

    def nats(self) -> ChildSpec:
        """Return how nats-server is started, and when it is ready."""
        file = write_nats_config(self._prepared.plan, self._folder)
        return ChildSpec(
            name=NATS,
            argv=(str(self._prepared.nats_server), "-c", str(file)),
            env=_inherited(),
            fds=(self._prepared.children_lock,),
            wait_ready=self._wait_queue,
            before_start=self._wait_room,
            tells_bad_input=False,  # a Go program ends with 2 when it panics: on a full disk
            watch=self._watch_nats,
            stop_seconds=STOP_SECONDS[NATS],
            log_file=self._folder.nats_log_file,
        )

    def service(self, name: str) -> ChildSpec:
        """Return how one of `SERVICES` is started."""
        prepared = self._prepared
        opened = prepared.sockets
        plain = {"ingress": opened.smtp, "monitor": opened.http}.get(name, [])
        secure = opened.smtps if name == "ingress" else []
        listen_fds = tuple(each.fileno() for each in (*plain, *secure))
        told = [str(each.fileno()) for each in plain]
        told += [f"{TLS_MARK}{each.fileno()}" for each in secure]
        env = {
            **_inherited(),
            "MAILRELAY_DATA_DIR": str(self._folder.path),
            "MAILRELAY_NATS_URL": self.url,
            "MAILRELAY_NATS_SEED_FILE": str(self._folder.seed_file(name)),
            "MAILRELAY_LISTEN_FDS": ",".join(told),
            "MAILRELAY_PROBE_ADDRESS": self._probes.get(name, ""),
            "MAILRELAY_LOG_FORMAT": prepared.options.log_format,
            IN_FORCE: str(self._folder.config_in_force),
            OVERRIDES: msgspec.json.encode(prepared.options.overrides).decode(),
            LIFELINE_FD: str(self._lifeline),
        }
        file = config_file(prepared.options.config_file)
        if file is not None:
            env["MAILRELAY_CONFIG"] = str(file)
        return ChildSpec(
            name=name,
            # -P: what lies in the current folder is no module of ours.
            argv=(sys.executable, "-P", "-m", f"mailrelay_{name}"),
            env=env,
            fds=(self._lifeline, prepared.children_lock, *listen_fds),
            stop_seconds=stop_seconds(name, prepared.config),
        )

    async def _wait_queue(self) -> None:
        """Wait until nats-server answers, then make its streams what they should be."""
        await _wait_info(self._prepared.plan.port)
        settings = self._connection_settings(Role.ADMIN)
        limits = queue_limits(self._config, self._prepared.plan.store_bytes)
        log = logger_into(self._log_file)
        try:
            changes = await ensure_queue(settings, limits, log, None)
        except (QueueError, StreamMismatchError) as error:
            if not self._queue_was_ready:
                raise GiveUpError(EXIT_FAILED, [f"the queue cannot be set up: {error}"]) from error
            # The streams are there from the first time: mail goes on.
            self._tell(f"the queue could not be checked: {error}", "queue.unchecked")
        else:
            self._log_file.tell("queue.ensured", changes=changes)
            with contextlib.suppress(OSError):  # a full disk; then it is noted next time
                note_reserved(self._folder, self._prepared.plan.store_bytes)
        self._queue_was_ready = True

    async def _wait_room(self) -> None:
        """Wait until nats-server can start: on a full disk it cannot."""
        await wait_room(self._folder.nats, self._tell)

    async def _watch_nats(self) -> str:
        """Return why nats-server must be started again, if ever it must."""
        watch = NatsWatch(
            health=self._connection_settings(Role.WATCH),
            admin=self._connection_settings(Role.ADMIN),
            folder=self._folder.nats,
            tell=self._tell,
            log=logger_into(self._log_file),
        )
        return await watch.wait_broken()

    def _connection_settings(self, role: Role) -> ConnectionSettings:
        return ConnectionSettings(
            self.url,
            role.value,
            self._folder.seed_file(role.value),
            self._config.queue.prefix,
        )


def stop_seconds(name: str, config: RelayConfig) -> float:
    """Return how long a process may take from SIGTERM on."""
    return STOP_SECONDS[name] + (config.processing_timeout if name == "sender" else 0)


async def _wait_info(port: int) -> None:
    """Wait until something at the port greets as nats-server does."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                greeting = await reader.readline()
            finally:
                writer.close()
            if greeting.startswith(b"INFO "):
                return
        await asyncio.sleep(_CONNECT_PAUSE_SECONDS)


def _inherited() -> dict[str, str]:
    """Return the environment without what only a supervisor sets, ours or one above us."""
    return {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
