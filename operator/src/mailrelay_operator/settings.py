"""The operator's own settings, from its environment; the chart writes them, nobody types them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mailrelay.config.load import ConfigError
from mailrelay_operator.child import digest_of
from mailrelay_operator.cluster.watch import RELIST_SECONDS
from mailrelay_operator.desired.inputs import Images

VERSION: Final = "0.1.0"

_PREFIX = "MAILRELAY_OPERATOR_"
_IMAGES = ("ingress", "sender", "monitor", "nats", "tools")
_MIN_RELIST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What the operator is told."""

    images: Images
    namespace: str  # its own: the Lease is there, and its pods, which ask the monitors
    watched: tuple[str, ...]  # namespaces whose relays it keeps; empty: all of the cluster
    identity: str  # another one for each process that ever runs
    lease: str
    probe_address: str  # host:port for /healthz, /readyz and /metrics; empty: none
    log_format: str
    workers: int  # relays worked on at once
    relist_seconds: float  # how often everything is listed again
    # Where a relay's monitor answers, with {namespace} and {name}.
    monitor_url: str

    @property
    def made_by(self) -> str:
        """What children are marked with: another one when an upgrade may roll relays."""
        images = {name: getattr(self.images, name) for name in _IMAGES}
        return digest_of({"version": VERSION, "images": images})[:16]


def operator_settings(environ: Mapping[str, str]) -> OperatorSettings:
    """Read the settings. Raises ConfigError with a line for each fault."""
    faults: list[str] = []

    def text(name: str, default: str | None = None) -> str:
        found = environ.get(_PREFIX + name, default)
        if found is None:
            faults.append(f"{_PREFIX}{name} must be set")
            return ""
        return found

    def number(name: str, default: float, least: float, most: float) -> float:
        given = environ.get(_PREFIX + name, str(default))
        try:
            value = float(given)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            faults.append(f"{_PREFIX}{name}: must be from {least:g} to {most:g}, is {given!r}")
        return value

    pod = environ.get("HOSTNAME") or os.uname().nodename
    settings = OperatorSettings(
        images=Images(**{name: text(f"IMAGE_{name.upper()}") for name in _IMAGES}),
        namespace=text("NAMESPACE"),
        watched=tuple(filter(None, (each.strip() for each in text("WATCHED", "").split(",")))),
        identity=f"{pod}_{secrets.token_hex(4)}",
        lease=text("LEASE", "mailrelay-operator"),
        probe_address=text("PROBE_ADDRESS", ""),
        log_format=text("LOG_FORMAT", "json"),
        workers=int(number("WORKERS", 4, 1, 64)),
        relist_seconds=number("RELIST_SECONDS", RELIST_SECONDS, _MIN_RELIST_SECONDS, 86_400),
        monitor_url=text("MONITOR_URL", "http://{name}-monitor.{namespace}.svc:8025"),
    )
    if faults:
        raise ConfigError(faults)
    return settings
