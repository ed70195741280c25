"""Certificate and users: read at the start, and again when their files change.

A file that cannot be used changes nothing: what was read before stays in force, and the log says
why. Open sessions keep what they have, a user who was taken out included.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from argon2.exceptions import Argon2Error
from prometheus_client import Counter, Gauge

from mailrelay.config.files import certificate_fault, certificate_files, file_faults
from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig
from mailrelay.runtime.certificate import (
    CertificateError,
    CertificateFacts,
    ServerCertificate,
    ensure_self_signed,
)
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.watch import INTERVAL_SECONDS, watch_files
from mailrelay_ingress.authentication import Authenticator, Users

_RENEW_LOOK_SECONDS = 3600.0

_unusable = Counter(
    "mailrelay_unusable_files_total",
    "Changed files that could not be used, so that the old content stays in force.",
    # `certificate` or `users`
    ["what"],
)
for _what in ("certificate", "users"):
    _unusable.labels(_what)  # 0: the first one is an increase, too
_ends_at = Gauge("mailrelay_certificate_ends_seconds", "When the certificate ends, in epoch time.")


def open_certificate(config: RelayConfig, data_dir: Path) -> ServerCertificate | None:
    """Return what the listener shows, None without TLS. Raises ConfigError."""
    if not config.tls.is_on:
        return None
    files = certificate_files(config)
    try:
        if files is None:
            host_name = config.host_name or socket.getfqdn()
            files = ensure_self_signed(data_dir / "tls", host_name)
        return ServerCertificate(files)
    except CertificateError as error:
        assert files is not None  # noqa: S101 — only reading them raises this
        raise ConfigError([certificate_fault(files, error)]) from error
    except OSError as error:
        raise ConfigError([f"tls.selfSigned: cannot write a certificate: {error}"]) from error


class Refresher:
    """Keeps a certificate and the users up to date while a listener serves."""

    def __init__(
        self,
        config: RelayConfig,
        data_dir: Path,
        certificate: ServerCertificate | None,
        authenticator: Authenticator,
        log: Logger,
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._certificate = certificate
        self._authenticator = authenticator
        self._log = log
        self._taking: set[asyncio.Task[None]] = set()
        if certificate is not None:
            self._tell(certificate.facts)

    async def run(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        """Look for changes until cancelled."""
        await asyncio.gather(
            watch_files(
                self._certificate_paths, self.read_certificate, interval_seconds=interval_seconds
            ),
            watch_files(self._users_paths, self.read_users, interval_seconds=interval_seconds),
            self._renew(),
        )

    FOLLOWS: ClassVar = (
        *("defaultUsername", "defaultPassword", "security.usersFile", "security.requireAuth"),
    )

    def prepare(self, config: RelayConfig) -> Callable[[], None]:
        """Look at another configuration's files; what is returned goes on with them.

        Raises ConfigError when they cannot be used.
        """
        faults = file_faults(config)
        if faults:
            raise ConfigError(faults)

        def take() -> None:
            task = asyncio.ensure_future(self.use(config))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)

        return take

    async def use(self, config: RelayConfig) -> None:
        """Go on with another configuration's users and certificate files."""
        self._config = config
        await self.read_users()
        files = certificate_files(config)
        if files is not None and self._certificate is not None:
            self._certificate.files = files
            await self.read_certificate()

    async def read_certificate(self) -> None:
        """Read the certificate again."""
        certificate = self._certificate
        if certificate is None:
            return
        try:
            changed = await asyncio.to_thread(certificate.reload)
        except CertificateError as error:
            self._complain("certificate", certificate_fault(certificate.files, error))
            return
        if changed:
            self._tell(certificate.facts)

    async def read_users(self) -> None:
        """Read the users again."""
        try:
            users = await asyncio.to_thread(Users, self._config)
        except ConfigError as error:
            self._complain("users", *error.faults)
            return
        except Argon2Error as error:  # no memory to hash `defaultPassword` again
            self._complain("users", str(error))
            return
        self._authenticator.use(users)
        self._log.info("users.read", users=len(users.hashes))

    async def _renew(self) -> None:
        """Make a self-signed certificate anew before it ends; the watch notices the file."""
        while self._config.tls.self_signed:
            await asyncio.sleep(_RENEW_LOOK_SECONDS)
            try:
                await asyncio.to_thread(open_certificate, self._config, self._data_dir)
            except ConfigError as error:
                self._complain("certificate", *error.faults)

    def _certificate_paths(self) -> Iterable[Path]:
        if self._certificate is None:
            return ()
        return {self._certificate.files.certificate, self._certificate.files.key}

    def _users_paths(self) -> Iterable[Path]:
        users_file = self._config.security.users_file
        return () if users_file is None else (users_file,)

    def _tell(self, facts: CertificateFacts) -> None:
        _ends_at.set(facts.ends_at.timestamp())
        self._log.info(
            "tls.certificate", sha256=facts.fingerprint, ends_at=facts.ends_at.isoformat()
        )

    def _complain(self, what: str, *faults: str) -> None:
        _unusable.labels(what).inc()
        self._log.error("files.unusable", what=what, faults=list(faults), in_force="the old ones")
