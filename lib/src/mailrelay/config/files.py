"""The files that a configuration names: whether they can be used, before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mailrelay.config.load import ConfigError, Loaded
from mailrelay.config.model import RelayConfig
from mailrelay.config.smart_hosts import configured_hosts, credentials
from mailrelay.config.tls import upstream_context
from mailrelay.config.token import read_token
from mailrelay.config.users import common_names, read_users
from mailrelay.runtime.certificate import CertificateError, CertificateFiles, check_certificate


def check_files(loaded: Loaded) -> None:
    """Raise ConfigError, one line for each file that cannot be used, with the option's source."""
    config = loaded.config
    faults = file_faults(config)
    checks: list[Callable[[], object]] = []
    for host in configured_hosts(config):
        checks += [partial(upstream_context, host), partial(credentials, host)]
    checks.append(lambda: read_token(config.http.token_file))
    for check in checks:
        try:
            check()
        except ConfigError as error:
            faults += error.faults
    if faults:
        # `routes[0].smartHosts[0].caFile` is of the option `routes`.
        keys = (fault.partition(":")[0].partition("[")[0] for fault in faults)
        sources = (loaded.sources.get(key, "") for key in keys)
        raise ConfigError(
            [
                f"{source}: {fault}" if source else fault
                for source, fault in zip(sources, faults, strict=True)
            ]
        )


def file_faults(config: RelayConfig) -> list[str]:
    """Say what is wrong with what the listener reads, a line a fault."""
    faults = []
    certificate = certificate_files(config)
    if certificate is not None:
        try:
            check_certificate(certificate)
        except CertificateError as error:
            faults.append(certificate_fault(certificate, error))
    try:
        users = users_of_file(config)
    except ConfigError as error:
        faults += error.faults
    else:
        if config.security.require_auth and not users and not config.default_username:
            faults.append(
                f"security.usersFile: {config.security.users_file} has no user, and "
                "security.requireAuth is true: add one (`mailrelay users add`), set "
                "defaultUsername and defaultPassword, or set security.requireAuth to false"
            )
    return faults


def certificate_files(config: RelayConfig) -> CertificateFiles | None:
    """Return the certificate that the configuration names."""
    certificate, key = config.tls.cert_file, config.tls.key_file
    if certificate is None or key is None:
        return None
    return CertificateFiles(certificate, key)


def certificate_fault(files: CertificateFiles, error: CertificateError) -> str:
    """Name the option and the file that an error is about."""
    option, path = ("keyFile", files.key) if error.of_key else ("certFile", files.certificate)
    return f"tls.{option}: {path} {error}"


def users_of_file(config: RelayConfig) -> dict[str, str]:
    """Return name and hash of each further user. Raises ConfigError."""
    path: Path | None = config.security.users_file
    if path is None:
        return {}
    try:
        users = read_users(path)
    except ConfigError as error:
        raise ConfigError([f"security.usersFile: {fault}" for fault in error.faults]) from error
    faults = common_names(users, config.default_username)
    if faults:
        raise ConfigError([f"security.usersFile: {path}: {fault}" for fault in faults])
    return users
