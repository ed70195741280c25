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

import msgspec

from mailrelay.config.files import certificate_files
from mailrelay.config.live import LiveConfig
from mailrelay.config.load import load_config
from mailrelay.config.model import RelayConfig
from mailrelay.queue.connection import ConnectionSettings
from mailrelay.queue.errors import QueueError, StreamMismatchError
from mailrelay.queue.rights import Role
from mailrelay.runtime.certificate import (
    CertificateError,
    CertificateFacts,
    check_certificate,
    ensure_self_signed,
)
from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK, LIFELINE_FD, READY_FD, end_tasks
from mailrelay.service import OVERRIDES, TLS_MARK
from mailrelay_cli.checked_config import checked_relay
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
STOP_SECONDS = {"ingress": 10.0, "sender": 20.0, "monitor": 5.0, NATS: 10.0}
_OWN_VARIABLES = (
    "MAILRELAY_CONFIG",
    "MAILRELAY_DATA_DIR",
    "MAILRELAY_NATS_URL",
    "MAILRELAY_NATS_SEED_FILE",
    "MAILRELAY_LISTEN_FDS",
    "MAILRELAY_PROBE_ADDRESS",
    "MAILRELAY_LOG_FORMAT",
    OVERRIDES,
    READY_FD,
    LIFELINE_FD,
)
_PORT_PATIENCE_SECONDS = 2.0  # the kernel closes the sockets of a killed process by and by
_CONNECT_PAUSE_SECONDS = 0.05
_MAX_OPEN_FILES = 65_536

_SERVICES = ("sender", "monitor", "ingress")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says."""

    config_file: Path | None
    data_dir: Path
    log_format: str
    overrides: tuple[str, ...] = ()  # key=value


@dataclass(frozen=True, slots=True)
class _Sockets:
    """What the relay listens on."""

    smtp: list[socket.socket]
    smtps: list[socket.socket]  # TLS from the first octet
    http: list[socket.socket]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything that could be wrong has been looked at; nothing has been started."""

    options: RunOptions
    config: RelayConfig
    folder: DataFolder
    sockets: _Sockets
    certificate: CertificateFacts | None
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


def _prepare(options: RunOptions, stack: contextlib.ExitStack) -> _Prepared:
    config = checked_relay(options.config_file, options.overrides).config
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
    certificate = _certificate(config, folder)
    sockets = _listen(config, _PORT_PATIENCE_SECONDS if was_killed else 0.0, stack)
    check_room(folder.nats)
    size = store_bytes(folder, config.queue.store_bytes)
    try:
        nats_server = find_nats_server(complain)
    except NatsServerNotFoundError as error:
        raise BadInputError(*str(error).splitlines()) from error
    # Without a health check nothing serves HTTP, the probes neither.
    probed = _SERVICES if config.enable_health_check else ()
    nats_port, *probe_ports = free_ports(1 + len(probed))
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
        sockets=sockets,
        certificate=certificate,
        children_lock=children_lock,
        nats_server=nats_server,
        plan=plan,
        probe_ports=dict(zip(probed, probe_ports, strict=True)),
    )


def _certificate(config: RelayConfig, folder: DataFolder) -> CertificateFacts | None:
    """Return what the listener will show; makes the self-signed one when it is wanted."""
    if not config.tls.is_on:
        return None
    files = certificate_files(config)
    try:
        if files is None:
            files = ensure_self_signed(folder.tls, config.host_name or socket.getfqdn())
        return check_certificate(files)
    except (CertificateError, OSError) as error:
        raise BadInputError(f"tls: the certificate cannot be had: {error}") from error


def _listen(config: RelayConfig, patience_seconds: float, stack: contextlib.ExitStack) -> _Sockets:
    """Open all ports; `stack` closes them, whatever happens. Raises BadInputError."""
    if config.enable_health_check and config.smtp_port == config.health_check_port:
        raise BadInputError(f"smtpPort and healthCheckPort are both {config.smtp_port}")

    def opened(listener: Listener) -> list[socket.socket]:
        sockets = open_listeners(listener, patience_seconds)
        for each in sockets:
            stack.callback(each.close)
        return sockets

    host, smtps_port, http_port = config.smtp_host, config.tls.smtps_port, config.health_check_port
    smtp = opened(Listener("SMTP", host, config.smtp_port, "smtpHost", "smtpPort"))
    smtps, http = [], []
    if smtps_port:
        smtps = opened(Listener("SMTPS", host, smtps_port, "smtpHost", "tls.smtpsPort"))
    if config.enable_health_check:
        for each in config.http.listen:
            http += opened(Listener("HTTP", each, http_port, "http.listen", "healthCheckPort"))
    return _Sockets(smtp=smtp, smtps=smtps, http=http)


async def _run(prepared: _Prepared) -> int:
    _raise_file_limit()
    log_file = LogFile(prepared.folder.log_file, prepared.options.log_format)
    stop = StopRequest()
    lifeline, held_end = os.pipe()  # nobody writes; it closes with this process
    relay = _Relay(prepared, log_file, lifeline)
    _take_signals(stop, relay.reload)
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
        options = prepared.options
        # Each service follows the file for itself and says so; this is the supervisor's own part.
        self._live = LiveConfig(
            prepared.config,
            lambda: load_config(_absolute(options.config_file), os.environ, options.overrides),
            file=_absolute(options.config_file),
            log=logger_into(log_file),
            quiet=True,
        )
        self._live.uses(self._use, "processingTimeout", "forwardSMTP", "forwardHost", "forwardPort")
        self._folder = prepared.folder
        self._log_file = log_file
        self._lifeline = lifeline
        self._url = f"nats://127.0.0.1:{prepared.plan.port}"
        self._queue_was_ready = False
        self._running = RunFile(
            pid=os.getpid(),
            started_at=time.time(),
            smtp=shown(prepared.sockets.smtp),
            smtps=shown(prepared.sockets.smtps),
            http=f"http://{_http_address(prepared.sockets.http)}/"
            if prepared.sockets.http
            else None,
            nats=self._url,
            credentials=str(prepared.folder.credentials),
            upstream=_upstream(prepared.config),
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
        following = asyncio.ensure_future(self._live.run())
        try:
            services = [self._service(name) for name in _SERVICES]
            return await self._supervisor.run(
                [[self._nats()], services], tuple(STOP_SECONDS), stop, self._show_ready
            )
        finally:
            await end_tasks([following])

    def reload(self) -> None:
        """Have the services read the configuration again, and do so ourselves."""
        self._supervisor.signal_ready(_SERVICES, signal.SIGHUP)
        self._live.reload()

    def _use(self, config: RelayConfig) -> None:
        """Follow what the supervisor itself has from the configuration."""
        self._supervisor.set_stop_seconds("sender", _stop_seconds("sender", config))
        self._running.upstream = _upstream(config)
        self._write_run_file()

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
        opened = prepared.sockets
        plain = {"ingress": opened.smtp, "monitor": opened.http}.get(name, [])
        secure = opened.smtps if name == "ingress" else []
        listen_fds = tuple(each.fileno() for each in (*plain, *secure))
        told = [str(each.fileno()) for each in plain]
        told += [f"{TLS_MARK}{each.fileno()}" for each in secure]
        env = {
            **_inherited(),
            "MAILRELAY_DATA_DIR": str(self._folder.path),
            "MAILRELAY_NATS_URL": self._url,
            "MAILRELAY_NATS_SEED_FILE": str(self._folder.seed_file(name)),
            "MAILRELAY_LISTEN_FDS": ",".join(told),
            "MAILRELAY_PROBE_ADDRESS": self._running.probes.get(name, ""),
            "MAILRELAY_LOG_FORMAT": prepared.options.log_format,
            OVERRIDES: msgspec.json.encode(prepared.options.overrides).decode(),
            LIFELINE_FD: str(self._lifeline),
        }
        config_file = _absolute(prepared.options.config_file)
        if config_file is not None:
            env["MAILRELAY_CONFIG"] = str(config_file)
        return ChildSpec(
            name=name,
            # -P: what lies in the current folder is no module of ours.
            argv=(sys.executable, "-P", "-m", f"mailrelay_{name}"),
            env=env,
            fds=(self._lifeline, prepared.children_lock, *listen_fds),
            stop_seconds=_stop_seconds(name, prepared.config),
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
    def _take_lines(self, name: str, lines: bytes, is_error: bool) -> None:  # noqa: FBT001 — a plain yes or no
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
            *self._tls_lines(),
            f"  look at       {self._running.http or 'nothing: enableHealthCheck is false'}",
            "  mail goes to  " + (upstream or "nobody: it is captured (forwardSMTP is false)"),
            f"  data          {self._folder.path}",
            f"  log           {self._folder.log_file}",
        )

    def _tls_lines(self) -> list[str]:
        certificate = self._prepared.certificate
        if certificate is None:
            return []
        ends = f"until {certificate.ends_at:%Y-%m-%d}"
        origin = "self-signed, " if self._config.tls.self_signed else ""
        lines = [f"  certificate   {origin}{ends}, SHA-256 {certificate.fingerprint}"]
        if self._running.smtps:
            lines.insert(0, f"  or to         {', '.join(self._running.smtps)} (SMTP in TLS)")
        return lines


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


def _take_signals(stop: StopRequest, reload: Callable[[], None]) -> None:
    """SIGTERM and SIGINT stop; SIGHUP reloads, but a terminal that is closed stops too."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # nohup's wish
    had_terminal = _has_terminal()

    def hang_up() -> None:
        if had_terminal and not _has_terminal():
            if not ignored:
                stop()
        else:
            reload()

    loop.add_signal_handler(signal.SIGHUP, hang_up)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path is not None else None


def _stop_seconds(name: str, config: RelayConfig) -> float:
    return STOP_SECONDS[name] + (config.processing_timeout if name == "sender" else 0)


def _upstream(config: RelayConfig) -> str | None:
    return f"{config.forward_host}:{config.forward_port}" if config.forward_smtp else None


def _http_address(sockets: list[socket.socket]) -> str:
    """Return where this machine's own clients get an answer: loopback, when it is among them."""
    addresses = shown(sockets)
    return next((each for each in addresses if each.startswith("127.")), addresses[0])


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
