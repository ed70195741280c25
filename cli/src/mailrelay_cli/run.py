"""A whole relay on one machine.

`prepare` looks at what could be wrong before anything is started; then come nats-server, the
queue's streams, and the services (`children` says how).
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
from collections.abc import Callable, Iterator
from pathlib import Path

from mailrelay.config.files import check_files
from mailrelay.config.in_force import write_in_force
from mailrelay.config.live import LiveConfig
from mailrelay.config.load import load_with_sources
from mailrelay.config.load import options as config_options
from mailrelay.config.model import RelayConfig
from mailrelay.config.smart_hosts import configured_routes
from mailrelay.readiness import reachable
from mailrelay.runtime.certificate import CertificateFacts
from mailrelay.runtime.lifecycle import EXIT_OK, end_tasks
from mailrelay_cli.checked_config import config_file
from mailrelay_cli.children import NATS, STOP_SECONDS, Children, stop_seconds
from mailrelay_cli.console import complain, say
from mailrelay_cli.first_secrets import USER, FirstSecrets
from mailrelay_cli.listeners import shown
from mailrelay_cli.log_file import LogFile, LogStream, logger_into
from mailrelay_cli.prepare import SERVICES, Prepared, RunOptions, prepare
from mailrelay_cli.run_file import RunFile, write_run_file
from mailrelay_cli.supervisor import GiveUpError, StopRequest, Supervisor

_MAX_OPEN_FILES = 65_536


def run_relay(options: RunOptions) -> int:
    """Run a relay until it is stopped; the exit code. Raises BadInputError."""
    with contextlib.ExitStack() as stack, _interruptible():
        try:
            prepared = prepare(options, stack)
        except KeyboardInterrupt:
            if not options.logs_to_stdout:
                say("stopped")
            return EXIT_OK
        return asyncio.run(_run(prepared))


async def _run(prepared: Prepared) -> int:
    _raise_file_limit()
    options = prepared.options
    log_file = (
        LogStream(sys.stdout.fileno(), options.log_format)
        if options.logs_to_stdout
        else LogFile(prepared.folder.log_file, options.log_format)
    )
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
        prepared.folder.config_in_force.unlink(missing_ok=True)
    log_file.tell("relay.stopped", code=code)
    log_file.close()
    if not options.logs_to_stdout:
        say("stopped")
    return code


_CAPTURED = "nobody: it is captured (forwardSMTP is false)"
_FOLLOWS = ("processingTimeout", "forwardSMTP", "forwardHost", "forwardPort", "routes")


class _Relay:
    """One run: what is started how, and what is told of it."""

    def __init__(self, prepared: Prepared, log_file: LogFile, lifeline: int) -> None:
        self._prepared = prepared
        self._config = prepared.config
        options = prepared.options
        # Each service follows the file for itself and says so; this is the supervisor's own part.
        self._live = LiveConfig(
            prepared.config,
            lambda: _read_config(options),
            file=config_file(options.config_file),
            log=logger_into(log_file),
            quiet=True,
        )
        self._live.uses(self._use, *_FOLLOWS)
        self._live.uses(self._hand_on, *(option.key for option in config_options()))
        self._folder = prepared.folder
        self._log_file = log_file
        self._children = Children(prepared, log_file, lifeline, self.tell)
        self._running = RunFile(
            pid=os.getpid(),
            started_at=time.time(),
            smtp=shown(prepared.sockets.smtp),
            smtps=shown(prepared.sockets.smtps),
            http=f"http://{_http_address(prepared.sockets.http)}/"
            if prepared.sockets.http
            else None,
            nats=self._children.url,
            credentials=str(prepared.folder.credentials),
            upstream=_upstream(prepared.config),
            probes=prepared.probe_addresses,
            prefix=prepared.config.queue.prefix,
            token_file=_text(prepared.config.http.token_file),
        )
        self._supervisor = Supervisor(
            tell=self.tell,
            note=log_file.tell,
            sink=self._take_lines,
            pids_changed=self._write_run_file,
        )

    async def run(self, stop: StopRequest) -> int:
        """Run it. Raises GiveUpError."""
        self._folder.config_in_force.unlink(missing_ok=True)  # of a run before this one
        self._hand_on(self._config)
        following = asyncio.ensure_future(self._live.run())
        try:
            services = [self._children.service(name) for name in SERVICES]
            return await self._supervisor.run(
                [[self._children.nats()], services], tuple(STOP_SECONDS), stop, self._show_ready
            )
        finally:
            await end_tasks([following])

    def reload(self) -> None:
        """Have the services read the configuration again, and do so ourselves."""
        self._supervisor.signal_ready(SERVICES, signal.SIGHUP)
        self._live.reload()

    def _use(self, config: RelayConfig) -> None:
        """Follow what the supervisor itself has from the configuration."""
        self._supervisor.set_stop_seconds("sender", stop_seconds("sender", config))
        self._running.upstream = _upstream(config)
        self._write_run_file()

    def _hand_on(self, config: RelayConfig) -> None:
        """Let what is started from now on begin with this."""
        try:
            write_in_force(self._folder.config_in_force, config)
        except OSError as error:  # a full disk: it begins with what was written last
            self._log_file.tell("config.not_handed_on", "warning", reason=str(error))

    def tell(self, text: str, event: str) -> None:
        """Tell people, and the log."""
        if not self._prepared.options.logs_to_stdout:
            complain(text)
        self._log_file.tell(event, "warning", message=text)

    def _take_lines(self, name: str, lines: bytes, is_error: bool) -> None:  # noqa: FBT001 — a plain yes or no
        if not is_error:
            self._log_file.write_lines(lines)
            return
        for line in lines.decode(errors="replace").splitlines():
            if name == NATS:
                self._log_file.tell("nats.line", _nats_level(line), line=line)
            else:
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
        upstream, secrets = self._running.upstream, self._prepared.secrets
        self._log_file.tell(
            "relay.ready",
            smtp=self._running.smtp,
            http=self._running.http,
            mail_goes_to=upstream or _CAPTURED,
            data=str(self._folder.path),
            **_certificate_fields(self._prepared.certificate),
            **_secrets_fields(secrets),
        )
        if self._prepared.options.logs_to_stdout:
            return
        say(
            "MailRelay is running; Ctrl-C stops it.",
            f"  send mail to  {', '.join(self._running.smtp)} (SMTP)",
            *self._tls_lines(),
            f"  look at       {self._running.http or 'nothing: enableHealthCheck is false'}",
            "  mail goes to  " + (upstream or _CAPTURED),
            f"  data          {self._folder.path}",
            f"  log           {self._folder.log_file}",
            *(f"  {key:<13} {value}" for key, value in _secrets_fields(secrets).items()),
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


def _certificate_fields(certificate: CertificateFacts | None) -> dict[str, str]:
    if certificate is None:
        return {}
    return {"certificate_sha256": certificate.fingerprint, "until": str(certificate.ends_at.date())}


def _secrets_fields(secrets: FirstSecrets) -> dict[str, str]:
    """Say where the secrets lie that the relay made itself; never what they are."""
    fields: dict[str, str] = {}
    if secrets.password_file is not None:
        fields |= {"user": USER, "password_in": str(secrets.password_file)}
    if secrets.token_file is not None:
        fields["token_in"] = str(secrets.token_file)
    return fields


def _nats_level(line: str) -> str:
    """Return the level of one of nats-server's lines, `[7] 2026/11/26 … [INF] text`."""
    for mark, level in (("[INF]", "info"), ("[WRN]", "warning")):
        if mark in line:
            return level
    return "error"


def _text(path: Path | None) -> str | None:
    return str(path.absolute()) if path is not None else None


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


def _read_config(options: RunOptions) -> RelayConfig:
    """Read the configuration and look into the files that it names. Raises ConfigError."""
    loaded = load_with_sources(config_file(options.config_file), os.environ, options.overrides)
    check_files(loaded)
    return loaded.config


def _upstream(config: RelayConfig) -> str | None:
    """Say where mail goes in a few words; None: nowhere."""
    found = configured_routes(config)
    named = [f"{route.name} ({', '.join(h.next_hop for h in route.hosts)})" for route in found]
    if not found:
        return None
    if len(found) == 1 and found[0].domains is None and len(found[0].hosts) == 1:
        return found[0].hosts[0].next_hop
    if all(route.domains is not None for route in found):
        named.append("all other mail is captured")
    return ", ".join(named)


def _http_address(sockets: list[socket.socket]) -> str:
    """Return where this machine's own clients get an answer: loopback, when it is among them."""
    addresses = shown(sockets)
    found = next((each for each in addresses if each.startswith("127.")), addresses[0])
    host, _, port = found.rpartition(":")
    answering = reachable(host.strip("[]"))
    return f"[{answering}]:{port}" if ":" in answering else f"{answering}:{port}"


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
