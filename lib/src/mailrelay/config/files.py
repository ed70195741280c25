"""Look into every file that a configuration names, before anything is started."""

from __future__ import annotations

from collections.abc import Callable

from mailrelay.config.load import ConfigError, Loaded
from mailrelay.config.tls import listener_context, upstream_context
from mailrelay.config.token import read_token


def check_files(loaded: Loaded) -> None:
    """Raise ConfigError, one line for each file that cannot be used."""
    config, sources = loaded.config, loaded.sources
    checks: tuple[Callable[[], object], ...] = (
        lambda: listener_context(config, source=sources["tls.certFile"]),
        lambda: upstream_context(config, source=sources["forwardCAFile"]),
        lambda: read_token(config.http.token_file, source=sources["http.tokenFile"]),
    )
    faults: list[str] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
