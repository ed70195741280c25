"""What a service process is told by its environment besides the relay's configuration.

Set by the supervisor on one machine and by the pod's manifest in a cluster; nobody types these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mailrelay.config.in_force import read_in_force
from mailrelay.config.live import LiveConfig
from mailrelay.config.load import ConfigError, load_config
from mailrelay.config.model import RelayConfig
from mailrelay.queue.connection import ConnectionSettings
from mailrelay.readiness import reachable
from mailrelay.runtime.logging import Logger

# The command line's `key=value`, as a JSON list: they go before the environment here too.
OVERRIDES = "MAILRELAY_SET"

# A file with the configuration in force: whoever is started again begins with it.
IN_FORCE = "MAILRELAY_CONFIG_IN_FORCE"

TLS_MARK = "tls:"  # in MAILRELAY_LISTEN_FDS: `5,6,tls:7`


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """A process's own circumstances."""

    role: str
    config_file: Path | None
    config: RelayConfig
    data_dir: Path
    queue: ConnectionSettings
    listen_fds: tuple[int, ...]  # sockets that the supervisor opened; empty: open our own
    probe_address: str  # host:port for /metrics and probes; empty: none
    log_format: str
    smtp_address: tuple[str, int]  # where this process reaches the ingress
    listen_tls_fds: tuple[int, ...] = ()  # as `listen_fds`, for TLS from the first octet
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def live_config(self, log: Logger, *, tells_restarts: bool = False) -> LiveConfig:
        """Return the configuration in force, which follows the file."""
        return LiveConfig(
            self.config,
            lambda: service_config(self.environ),
            file=self.config_file,
            log=log,
            tells_restarts=tells_restarts,
        )


def service_settings(role: str, environ: Mapping[str, str]) -> ServiceSettings:
    """Read a service's settings. Raises ConfigError."""
    file = environ.get("MAILRELAY_CONFIG")
    config = config_in_force(environ)
    url = environ.get("MAILRELAY_NATS_URL")
    if not url:
        raise ConfigError(["MAILRELAY_NATS_URL must say where NATS is"])
    seed = environ.get("MAILRELAY_NATS_SEED_FILE")
    fds = environ.get("MAILRELAY_LISTEN_FDS", "")
    return ServiceSettings(
        role=role,
        config_file=Path(file) if file else None,
        config=config,
        data_dir=Path(environ.get("MAILRELAY_DATA_DIR", "data")),
        queue=ConnectionSettings(url, role, Path(seed) if seed else None, config.queue.prefix),
        listen_fds=tuple(int(fd) for fd in fds.split(",") if fd and not fd.startswith(TLS_MARK)),
        listen_tls_fds=tuple(
            int(fd.removeprefix(TLS_MARK)) for fd in fds.split(",") if fd.startswith(TLS_MARK)
        ),
        probe_address=environ.get("MAILRELAY_PROBE_ADDRESS", ""),
        log_format=environ.get("MAILRELAY_LOG_FORMAT", "json"),
        smtp_address=_smtp_address(environ.get("MAILRELAY_SMTP_ADDRESS", ""), config),
        environ=environ,
    )


def config_in_force(environ: Mapping[str, str]) -> RelayConfig:
    """Read what the relay's other processes go by now. Raises ConfigError."""
    if path := environ.get(IN_FORCE):
        with contextlib.suppress(OSError, ConfigError):  # then what the file says is the best
            return read_in_force(Path(path))
    return service_config(environ)


def service_config(environ: Mapping[str, str]) -> RelayConfig:
    """Read the relay's configuration as a service is told it. Raises ConfigError."""
    file = environ.get("MAILRELAY_CONFIG")
    try:
        overrides = msgspec.json.decode(environ.get(OVERRIDES, "[]"), type=list[str])
    except msgspec.MsgspecError as error:
        raise ConfigError([f"{OVERRIDES} must be a JSON list of key=value: {error}"]) from error
    return load_config(Path(file) if file else None, environ, overrides)


def _smtp_address(told: str, config: RelayConfig) -> tuple[str, int]:
    """Return where the ingress is: as told, host:port, or on this machine. Raises ConfigError."""
    if not told:
        return reachable(config.smtp_host), config.smtp_port
    host, _, port = told.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError([f"MAILRELAY_SMTP_ADDRESS: must be host:port, is {told!r}"])
    return host.strip("[]"), int(port)
