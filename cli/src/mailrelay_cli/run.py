"""A whole relay on one machine.

In this order, so that nothing is half started when something is wrong: configuration, data folder,
ports, nats-server's executable; then nats-server, the queue's streams, and the services.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mailrelay.config.load import ConfigError, load_config
from mailrelay.config.model import RelayConfig
from mailrelay.queue.connection import ConnectionSettings
from mailrelay.queue.errors import QueueError, StreamMismatchError
from mailrelay.queue.rights import Role
from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK, LIFELINE_FD, READY_FD
from mailrelay_cli.console import complain, say
from mailrelay_cli.data_folder import (
    DataFolder,
    lock_as_supervisor,
    lock_for_children,
    make_data_folder,
)
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.listeners import Listener, free_ports, open_listeners, shown
from mailrelay_cli.log_file import LogFile, logger_into
from mailrelay_cli.nats_config import (
    NatsServerPlan,
    make_credentials,
    note_reserved,
    reserved_bytes,
    store_bytes,
    write_nats_config,
)
from mailrelay_cli.nats_server import NatsServerNotFoundError, find_nats_server
from mailrelay_cli.nats_watch import NatsWatch, check_room, wait_room
from mailrelay_cli.queue_step import ensure_queue, queue_limits
from mailrelay_cli.run_file import RunFile, read_run_file, write_run_file
from mailrelay_cli.supervisor import ChildSpec, GiveUpError, StopRequest, Supervisor

NATS = "nats"
# Seconds from SIGTERM to SIGKILL. First who takes mail in, last who keeps it.
# A sender gets `processingTimeout` on top: it waits for the answers to final dots.
STOP_SECONDS = {"ingress": 10.0, "sender": 15.0, "monitor": 5.0, NATS: 10.0}
_OWN_VARIABLES = (
    "MAILRELAY_CONFIG",
    "MAILRELAY_DATA_DIR",
    "MAILRELAY_NATS_URL",
    "MAILRELAY_NATS_SEED_FILE",
    "MAILRELAY_LISTEN_FDS",
    "MAILRELAY_PROBE_ADDRESS",
    "MAILRELAY_LOG_FORMAT",
    READY_FD,
    LIFELINE_FD,
)
_PORT_PATIENCE_SECONDS = 2.0  # the kernel closes the sockets of a killed process by and by
_CONNECT_PAUSE_SECONDS = 0.05
_MAX_OPEN_FILES = 65_536

# Options that are taken and do nothing yet: what to say, and when. Shrinks as they are built.
NOT_YET: dict[str, Callable[[RelayConfig], bool]] = {
    "rateLimits.enabled: true": lambda config: config.rate_limits.enabled,
    "security.logAllEmails: true": lambda config: config.security.log_all_emails,
    "batchDelay (pause between the jobs of one message)": lambda config: (
        "batch_delay" in config.model_fields_set and config.batch_delay > 0
    ),
    "continueOnError: false": lambda config: not config.continue_on_error,
}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says."""

    config_file: Path | None
    data_dir: Path
    log_format: str


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything that could be wrong has been looked at; nothing has been started."""

    options: RunOptions
    config: RelayConfig
    folder: DataFolder
    smtp: list[socket.socket]
    http: list[socket.socket]
    children_lock: int
    nats_server: Path
    plan: NatsServerPlan
    probe_ports: Mapping[str, int]


def run_relay(options: RunOptions) -> int:
    """Run a relay until it is stopped; the exit code. Raises BadInputError."""
    with contextlib.ExitStack() as stack, _interruptible():
        try:
            prepared = _prepare(options, stack)
        except KeyboardInterrupt:
            say("stopped")
            return EXIT_OK
        return asyncio.run(_run(prepared))


def checked_config(path: Path | None) -> RelayConfig:
    """Load a configuration. Raises BadInputError."""
    try:
        return load_config(path.absolute() if path is not None else None, os.environ)
    except ConfigError as error:
        raise BadInputError(*error.faults) from error


def not_yet(config: RelayConfig) -> list[str]:
    """Name the options that are set and do nothing yet."""
    return [name for name, is_set in NOT_YET.items() if is_set(config)]


def _prepare(options: RunOptions, stack: contextlib.ExitStack) -> _Prepared:
    config = checked_config(options.config_file)
    if config.queue.replicas > 1:
        raise BadInputError(
            f"queue.replicas is {config.queue.replicas}, and `mailrelay run` starts one "
            "nats-server: it must be 1 here"
        )
    folder = make_data_folder(options.data_dir)
    stack.callback(os.close, lock_as_supervisor(folder))
    children_lock = lock_for_children(folder)
    stack.callback(os.close, children_lock)
    was_killed = read_run_file(folder.run_file) is not None
    smtp, http = _listen(config, _PORT_PATIENCE_SECONDS if was_killed else 0.0)
    for opened in (*smtp, *http):
        stack.callback(opened.close)
    check_room(folder.nats)
    size = store_bytes(folder, config.queue.store_bytes)
    try:
        nats_server = find_nats_server(complain)
    except NatsServerNotFoundError as error:
        raise BadInputError(*str(error).splitlines()) from error
    nats_port, *probe_ports = free_ports(4)
    plan = NatsServerPlan(
        port=nats_port,
        prefix=config.queue.prefix,
        store_bytes=size,
        reserved_bytes=reserved_bytes(folder),
        public_keys=make_credentials(folder),
    )
    return _Prepared(
        options=options,
        config=config,
        folder=folder,
        smtp=smtp,
        http=http,
        children_lock=children_lock,
        nats_server=nats_server,
        plan=plan,
        probe_ports=dict(zip(("ingress", "sender", "monitor"), probe_ports, strict=True)),
    )


def _listen(
    config: RelayConfig, patience_seconds: float
) -> tuple[list[socket.socket], list[socket.socket]]:
    smtp = Listener("SMTP", config.smtp_host, config.smtp_port, "smtpPort")
    http = Listener("HTTP", "localhost", config.health_check_port, "healthCheckPort")
    if not config.enable_health_check:
        return open_listeners(smtp, patience_seconds), []
    if config.smtp_port == config.health_check_port:
        raise BadInputError(f"smtpPort and healthCheckPort are both {config.smtp_port}")
    opened = open_listeners(smtp, patience_seconds)
    try:
        return opened, open_listeners(http, patience_seconds)
    except BadInputError:
        for each in opened:
            each.close()
        raise


async def _run(prepared: _Prepared) -> int:
    _raise_file_limit()
    log_file = LogFile(prepared.folder.log_file, prepared.options.log_format)
    stop = StopRequest()
    _stop_on_signals(stop)
    lifeline, held_end = os.pipe()  # nobody writes; it closes with this process
    relay = _Relay(prepared, log_file, lifeline)
    for name in not_yet(prepared.config):
        relay.tell(f"warning: {name} is set and has no effect yet", "option.not_yet")
    try:
        code = await relay.run(stop)
    except GiveUpError as error:
        complain(*error.lines)
        log_file.tell("relay.gave_up", "error", reason="; ".join(error.lines))
        code = error.exit_code
    finally:
        for fd in (lifeline, held_end):
            os.close(fd)
        prepared.folder.run_file.unlink(missing_ok=True)
    log_file.tell("relay.stopped", code=code)
    log_file.close()
    say("stopped")
    return code


class _Relay:
    """One run: what is started how, and what is told of it."""

    def __init__(self, prepared: _Prepared, log_file: LogFile, lifeline: int) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._folder = prepared.folder
        self._log_file = log_file
        self._lifeline = lifeline
        self._url = f"nats://127.0.0.1:{prepared.plan.port}"
        self._queue_was_ready = False
        config = prepared.config
        self._running = RunFile(
            pid=os.getpid(),
            started_at=time.time(),
            smtp=shown(prepared.smtp),
            http=f"http://127.0.0.1:{config.health_check_port}/" if prepared.http else None,
            nats=self._url,
            credentials=str(prepared.folder.credentials),
            upstream=f"{config.forward_host}:{config.forward_port}"
            if config.forward_smtp
            else None,
            probes={name: f"127.0.0.1:{port}" for name, port in prepared.probe_ports.items()},
        )
        self._supervisor = Supervisor(
            tell=self.tell,
            note=log_file.tell,
            sink=self._take_lines,
            pids_changed=self._write_run_file,
        )

    async def run(self, stop: StopRequest) -> int:
        """Run it. Raises GiveUpError."""
        services = [self._service(name) for name in ("sender", "monitor", "ingress")]
        return await self._supervisor.run(
            [[self._nats()], services], tuple(STOP_SECONDS), stop, self._show_ready
        )

    def tell(self, text: str, event: str) -> None:
        """Tell people, and the log."""
        complain(text)
        self._log_file.tell(event, "warning", message=text)

    # What is started.
    def _nats(self) -> ChildSpec:
        config_file = write_nats_config(self._prepared.plan, self._folder)
        return ChildSpec(
            name=NATS,
            argv=(str(self._prepared.nats_server), "-c", str(config_file)),
            env=_inherited(),
            fds=(self._prepared.children_lock,),
            wait_ready=self._wait_queue,
            before_start=self._wait_room,
            tells_bad_input=False,  # a Go program ends with 2 when it panics: on a full disk
            watch=self._watch_nats,
            stop_seconds=STOP_SECONDS[NATS],
            log_file=self._folder.nats_log_file,
        )

    def _service(self, name: str) -> ChildSpec:
        prepared = self._prepared
        sockets = {"ingress": prepared.smtp, "monitor": prepared.http}.get(name, [])
        listen_fds = tuple(each.fileno() for each in sockets)
        env = {
            **_inherited(),
            "MAILRELAY_DATA_DIR": str(self._folder.path),
            "MAILRELAY_NATS_URL": self._url,
            "MAILRELAY_NATS_SEED_FILE": str(self._folder.seed_file(name)),
            "MAILRELAY_LISTEN_FDS": ",".join(map(str, listen_fds)),
            "MAILRELAY_PROBE_ADDRESS": f"127.0.0.1:{prepared.probe_ports[name]}",
            "MAILRELAY_LOG_FORMAT": prepared.options.log_format,
            LIFELINE_FD: str(self._lifeline),
        }
        if prepared.options.config_file is not None:
            env["MAILRELAY_CONFIG"] = str(prepared.options.config_file.absolute())
        return ChildSpec(
            name=name,
            # -P: what lies in the current folder is no module of ours.
            argv=(sys.executable, "-P", "-m", f"mailrelay_{name}"),
            env=env,
            fds=(self._lifeline, prepared.children_lock, *listen_fds),
            stop_seconds=STOP_SECONDS[name]
            + (prepared.config.processing_timeout if name == "sender" else 0),
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
            self.tell(f"the queue could not be checked: {error}", "queue.unchecked")
        else:
            self._log_file.tell("queue.ensured", changes=changes)
            with contextlib.suppress(OSError):  # a full disk; then it is noted next time
                note_reserved(self._folder, self._prepared.plan.store_bytes)
        self._queue_was_ready = True

    async def _wait_room(self) -> None:
        """Wait until nats-server can start: on a full disk it cannot."""
        await wait_room(self._folder.nats, self.tell)

    async def _watch_nats(self) -> str:
        """Return why nats-server must be started again, if ever it must."""
        watch = NatsWatch(
            health=self._connection_settings(Role.WATCH),
            admin=self._connection_settings(Role.ADMIN),
            folder=self._folder.nats,
            tell=self.tell,
            log=logger_into(self._log_file),
        )
        return await watch.wait_broken()

    def _connection_settings(self, role: Role) -> ConnectionSettings:
        return ConnectionSettings(
            self._url,
            role.value,
            self._folder.seed_file(role.value),
            self._config.queue.prefix,
        )

    # What is told.
    def _take_lines(self, name: str, lines: bytes, is_error: bool) -> None:  # noqa: FBT001
        if not is_error:
            self._log_file.write_lines(lines)
            return
        for line in lines.decode(errors="replace").splitlines():
            self._log_file.tell("process.stderr", "warning", process=name, line=line)

    def _write_run_file(self) -> None:
        self._running.pids = self._supervisor.pids
        try:
            write_run_file(self._folder.run_file, self._running)
        except OSError as error:  # a full disk does not stop the mail
            self._log_file.tell("run_file.unwritten", "warning", reason=str(error))

    def _show_ready(self) -> None:
        self._running.is_ready = True
        self._write_run_file()
        self._log_file.tell("relay.ready", smtp=self._running.smtp, http=self._running.http)
        upstream = self._running.upstream
        say(
            "MailRelay is running; Ctrl-C stops it.",
            f"  send mail to  {', '.join(self._running.smtp)} (SMTP)",
            f"  look at       {self._running.http or 'nothing: enableHealthCheck is false'}",
            "  mail goes to  " + (upstream or "nobody: it is captured (forwardSMTP is false)"),
            f"  data          {self._folder.path}",
            f"  log           {self._folder.log_file}",
        )


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


def _raise_file_limit() -> None:
    """Let the children have a socket for each of `maxConnections`; shells often give 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _stop_on_signals(stop: StopRequest) -> None:
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's wish
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Until the event loop takes the signals: SIGTERM is what Ctrl-C is."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
