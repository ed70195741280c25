"""Look at everything that could be wrong with a start, before anything is started.

In this order: configuration, data folder, ports, nats-server's executable.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mailrelay.config.files import certificate_files
from mailrelay.config.model import RelayConfig
from mailrelay.runtime.certificate import (
    CertificateError,
    CertificateFacts,
    check_certificate,
    ensure_self_signed,
)
from mailrelay_cli.checked_config import checked_relay
from mailrelay_cli.console import complain
from mailrelay_cli.data_folder import (
    DataFolder,
    lock_as_supervisor,
    lock_for_children,
    make_data_folder,
)
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.first_secrets import FirstSecrets, ensure_secrets
from mailrelay_cli.listeners import Listener, claim_ports, open_listeners
from mailrelay_cli.nats_config import (
    NatsServerPlan,
    make_credentials,
    reserved_bytes,
    store_bytes,
)
from mailrelay_cli.nats_server import NatsServerNotFoundError, find_nats_server
from mailrelay_cli.nats_watch import check_room
from mailrelay_cli.run_file import read_run_file

SERVICES = ("sender", "monitor", "ingress")
_PORT_PATIENCE_SECONDS = 2.0  # the kernel closes the sockets of a killed process by and by


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says."""

    config_file: Path | None
    data_dir: Path
    log_format: str
    overrides: tuple[str, ...] = ()  # key=value
    logs_to_stdout: bool = False


@dataclass(frozen=True, slots=True)
class Sockets:
    """What the relay listens on."""

    smtp: list[socket.socket]
    smtps: list[socket.socket]  # TLS from the first octet
    http: list[socket.socket]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that could be wrong has been looked at; nothing has been started."""

    options: RunOptions
    config: RelayConfig
    folder: DataFolder
    sockets: Sockets
    certificate: CertificateFacts | None
    secrets: FirstSecrets
    children_lock: int
    nats_server: Path
    plan: NatsServerPlan
    probe_ports: Mapping[str, int]

    @property
    def probe_addresses(self) -> dict[str, str]:
        """Where each process answers its probes, on loopback."""
        return {name: f"127.0.0.1:{port}" for name, port in self.probe_ports.items()}


def prepare(options: RunOptions, stack: contextlib.ExitStack) -> Prepared:
    """Get all that a relay needs; `stack` gives it up again. Raises BadInputError."""
    secrets: list[FirstSecrets] = []
    config = checked_relay(
        options.config_file,
        options.overrides,
        lambda loaded: secrets.append(ensure_secrets(loaded, options.data_dir)),
    ).config
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
    probed = SERVICES if config.enable_health_check else ()
    nats_port, *probe_ports = claim_ports(1 + len(probed), stack)
    plan = NatsServerPlan(
        port=nats_port,
        prefix=config.queue.prefix,
        store_bytes=size,
        reserved_bytes=reserved_bytes(folder),
        public_keys=make_credentials(folder),
        logs_to_file=not options.logs_to_stdout,
    )
    return Prepared(
        options=options,
        config=config,
        folder=folder,
        sockets=sockets,
        certificate=certificate,
        secrets=secrets[0],
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


def _listen(config: RelayConfig, patience_seconds: float, stack: contextlib.ExitStack) -> Sockets:
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
    return Sockets(smtp=smtp, smtps=smtps, http=http)
