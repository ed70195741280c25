"""A Postfix of the test's own: its folder, its ports, its processes, and nothing else.

It takes mail for every domain into one Maildir, or hands all mail on to `relay_port`. Its master
is started directly, as the leader of a process group of its own, so that it is ended by its
process id together with its children. Postfix needs root: its parts run under several users.
What Postfix would tidy up in mail from its own machine is switched off (the last lines of
`main.cf` below); all else is Postfix's default, or a limit lifted.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import ServerCertificate
from tests.support.ports import free_port
from tests.support.process_group import ServerGroup
from tests.support.stored import Maildir, StoredMail

DAEMONS = Path("/usr/lib/postfix/sbin")  # Debian's place
MESSAGE_BYTES = 60 * 1024 * 1024
NOBODY = 65534  # Debian's fixed uid and gid; the Maildir is theirs

_MAIN = """\
compatibility_level = 3.6
config_directory = {folder}/config
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {daemons}
command_directory = /usr/sbin
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
myhostname = {name}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
local_recipient_maps =
smtputf8_enable = yes
message_size_limit = {message_bytes}
smtpd_client_connection_count_limit = 0
smtpd_hard_error_limit = 10000
smtpd_soft_error_limit = 10000
smtpd_peername_lookup = no
# One deferral is seen again within a test.
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
# Duplicates in an envelope are kept, to be seen.
duplicate_filter_limit = 1
# Content stays as it comes, although it comes from this machine.
local_header_rewrite_clients =
message_drop_headers =
"""

_SINK = """\
virtual_mailbox_domains = static:all
virtual_mailbox_maps = static:all/
virtual_mailbox_base = {folder}/mail
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}
virtual_mailbox_limit = 0
"""

_TLS = """\
smtpd_tls_cert_file = {certificate.certificate}
smtpd_tls_key_file = {certificate.key}
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
"""

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""

_SPACE_BEFORE_COLON = re.compile(rb"(?m)^([!-9;-~]+)[ \t]+:")

# As `postfix check` makes them: mode, group.
_QUEUES = {
    **dict.fromkeys(
        ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
        (0o700, "root"),
    ),
    **dict.fromkeys(("private", "saved", "trace"), (0o700, "root")),
    "maildrop": (0o730, "postdrop"),
    "public": (0o710, "postdrop"),
}


@dataclass(frozen=True, slots=True)
class PostfixOptions:
    """What one Postfix does differently from the others."""

    name: str = "postfix.peer.test"
    certificate: ServerCertificate | None = None  # STARTTLS is offered with it
    policy_port: int | None = None  # of a policy service that is asked at each RCPT
    relay_port: int | None = None  # all mail goes on to this port of 127.0.0.1


class Postfix:
    """Postfix in a folder; `start` and `stop` may alternate."""

    def __init__(self, folder: Path, options: PostfixOptions) -> None:
        self.folder = folder
        self.port = free_port()
        self._options = options
        self._server = ServerGroup(
            folder / "console.txt", DAEMONS / "master", "-c", folder / "config", "-d"
        )
        self._maildir = Maildir(folder / "mail/all", ["x-original-to"])
        self._lay_out()

    @property
    def log_text(self) -> str:
        """All that it has logged."""
        file = self.folder / "mail.log"
        return file.read_text() if file.exists() else ""

    def count(self) -> int:
        """How many mails it has delivered."""
        return self._maildir.count()

    def mails(self) -> list[StoredMail]:
        """The mails it has delivered."""
        return self._maildir.mails()

    def tidied(self, content: bytes) -> bytes:
        """Return content as Postfix's cleanup leaves it, whoever sent it.

        It drops the white space that RFC 5322 §4.5.8 only just tolerates before a field's colon.
        """
        head, end, body = content.partition(b"\r\n\r\n")
        return _SPACE_BEFORE_COLON.sub(rb"\1:", head) + end + body

    async def start(self) -> None:
        """Start the master and wait until it accepts connections."""
        await self._server.start(self.port)

    async def stop(self) -> None:
        """End the master, which ends its children."""
        await self._server.stop()

    def _lay_out(self) -> None:
        owner = pwd.getpwnam("postfix").pw_uid
        self.folder.chmod(0o755)  # Postfix's users look in
        for name in ("config", "queue", "queue/pid"):
            (self.folder / name).mkdir(mode=0o755)
        for name, (mode, group) in _QUEUES.items():
            _make(self.folder / "queue" / name, mode, owner, group)
        _make(self.folder / "data", 0o700, owner, "root")
        _make(self.folder / "mail", 0o700, NOBODY, "root")
        (self.folder / "config/main.cf").write_text(self._main())
        (self.folder / "config/master.cf").write_text(_MASTER.format(port=self.port))

    def _main(self) -> str:
        options = self._options
        main = _MAIN.format(
            folder=self.folder, name=options.name, daemons=DAEMONS, message_bytes=MESSAGE_BYTES
        )
        if options.certificate is not None:
            main += _TLS.format(certificate=options.certificate)
        if options.policy_port is not None:
            service = f"inet:127.0.0.1:{options.policy_port}"
            main += f"smtpd_recipient_restrictions = check_policy_service {service}\n"
        if options.relay_port is not None:
            return main + f"relayhost = [127.0.0.1]:{options.relay_port}\n"
        return main + _SINK.format(folder=self.folder, nobody=NOBODY)


def _make(folder: Path, mode: int, owner: int, group: str) -> None:
    folder.mkdir()
    shutil.chown(folder, owner, group)
    folder.chmod(mode)


@contextlib.asynccontextmanager
async def running_postfix(options: PostfixOptions | None = None) -> AsyncIterator[Postfix]:
    """A Postfix for a `with` block; its folder goes with it.

    pytest's own folders are closed to other users, so it has one beside them.
    """
    assert (DAEMONS / "master").exists(), "Postfix is not installed (apt-get install postfix)"
    assert os.geteuid() == 0, "Postfix needs root"
    with tempfile.TemporaryDirectory(prefix="mailrelay-postfix-") as folder:
        postfix = Postfix(Path(folder), options or PostfixOptions())
        try:
            await postfix.start()
            yield postfix
        finally:
            await postfix.stop()
