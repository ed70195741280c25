"""An Exim of the test's own, run from wherever its package was unpacked.

Debian lets only one mail server be installed, so `.ci/run` unpacks Exim's package beside Postfix
without installing it, and makes the user that Debian's build of Exim insists on. It takes mail
for every domain into one Maildir; nothing that it does to content by default is switched off.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.ports import free_port
from tests.support.process_group import ServerGroup
from tests.support.stored import Maildir, StoredMail

UNPACKED = Path(os.environ.get("MAILRELAY_EXIM", "/var/cache/mailrelay/exim4/usr/sbin/exim4"))
USER = "Debian-exim"

_CONFIGURATION = """\
exim_path = {exim}
primary_hostname = exim.peer.test
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
tls_advertise_hosts =
smtputf8_advertise_hosts = *
message_size_limit = 60M
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
host_lookup =
keep_environment =
acl_smtp_rcpt = accept_all
begin acl
accept_all:
  accept
begin routers
all:
  driver = accept
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  user = {user}
  return_path_add
  envelope_to_add
  message_prefix =
  message_suffix =
"""


class Exim:
    """Exim in a folder."""

    def __init__(self, folder: Path) -> None:
        assert UNPACKED.exists(), f"Exim is not at {UNPACKED}: .ci/run unpacks it there"
        assert os.geteuid() == 0, "Exim needs root"
        self.folder = folder
        self.port = free_port()
        folder.chmod(0o755)
        for name in ("spool", "log", "mail"):
            (folder / name).mkdir()
            shutil.chown(folder / name, USER, USER)
        shutil.chown(folder, USER)
        configuration = folder / "exim.conf"
        configuration.write_text(
            _CONFIGURATION.format(exim=UNPACKED, folder=folder, port=self.port, user=USER)
        )
        self._server = ServerGroup(folder / "console.txt", UNPACKED, "-C", configuration, "-bdf")
        self._maildir = Maildir(folder / "mail", ["envelope-to"])

    @property
    def log_text(self) -> str:
        """All that it has logged."""
        return "".join(file.read_text() for file in sorted((self.folder / "log").iterdir()))

    def count(self) -> int:
        """How many mails it has delivered."""
        return self._maildir.count()

    def mails(self) -> list[StoredMail]:
        """The mails it has delivered."""
        return self._maildir.mails()

    def tidied(self, content: bytes) -> bytes:
        """Return content as Exim stores it: the empty line behind the header is never left out."""
        is_header_only = b"\r\n\r\n" not in content and not content.startswith(b"\r\n")
        return content + b"\r\n" if is_header_only else content

    async def start(self) -> None:
        """Start it and wait until it accepts connections."""
        await self._server.start(self.port)

    async def stop(self) -> None:
        """End it and its deliveries."""
        await self._server.stop()


@contextlib.asynccontextmanager
async def running_exim() -> AsyncIterator[Exim]:
    """An Exim for a `with` block; its folder goes with it."""
    with tempfile.TemporaryDirectory(prefix="mailrelay-exim-") as folder:
        exim = Exim(Path(folder))
        try:
            await exim.start()
            yield exim
        finally:
            await exim.stop()
