"""The upstream in a process of its own: `python -m tests.support.upstream_process`.

Prints `READY <port>` on standard output and ends on SIGTERM after the open
transactions. With `--record`, a delivery is with the operating system before
the client gets its 250: killing this process loses no record of what it took.
RCPT lines follow within `FLUSH_SECONDS`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.certificates import server_context
from tests.support.deliveries import Delivery, delivery_line, rcpt_line
from tests.support.extensions import Extensions
from tests.support.scripting import Delay, Script, Stage
from tests.support.scripts import accept_all, defer_fraction, fail_at, first_of
from tests.support.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import Sequence

FLUSH_SECONDS = 0.05
GRACE_SECONDS = 5.0


class UsersFile(Mapping[str, str]):
    """Users and their passwords in a JSON object, read anew for each look."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, user: str) -> str:
        return self._read()[user]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._path.read_text())
        return found


class Record:
    """An append-only file of JSON lines that survives a kill of this process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lines: list[str] = []

    def rcpt(self, address: str, nth: int, connection: int, transaction: int) -> None:
        """Note a RCPT; it leaves with the next delivery or flush."""
        self._lines.append(rcpt_line(address, nth, connection, transaction, time.time()))

    def delivery(self, delivery: Delivery) -> None:
        """Write a delivery now, in one write with what waited."""
        self._lines.append(delivery_line(delivery))
        self.flush()

    def note(self, fields: Mapping[str, object]) -> None:
        """Write a line of another kind; it leaves as a RCPT does."""
        self._lines.append(json.dumps(fields, separators=(",", ":")))

    def login_refused(self, code: int) -> None:
        """Note an AUTH that went wrong."""
        self.note({"kind": "login refused", "code": code, "time": time.time()})

    def flush(self) -> None:
        """Write what waits."""
        if not self._lines:
            return
        unwritten = memoryview(("\n".join(self._lines) + "\n").encode())
        self._lines.clear()
        while unwritten:
            unwritten = unwritten[os.write(self._file, unwritten) :]

    def close(self) -> None:
        """Write what waits and close the file."""
        self.flush()
        os.close(self._file)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="tests.support.upstream_process")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--record", type=Path, help="JSON lines are appended to this file")
    parser.add_argument("--defer-fraction", type=float, default=0.0, metavar="F")
    parser.add_argument("--defer-seed", type=int, default=0)
    parser.add_argument("--defer-always", action="store_true", help="not only the first attempt")
    parser.add_argument(
        "--reply-delay", type=float, default=0.0, metavar="SECONDS", help="at the final dot"
    )
    parser.add_argument("--certificate", type=Path, help="PEM chain: offers STARTTLS")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--tls-required", action="store_true", help="no mail in the clear")
    parser.add_argument(
        "--users", type=Path, help="JSON, read anew at each AUTH: no mail without one, only in TLS"
    )
    return parser.parse_args(arguments)


def script_of(options: argparse.Namespace) -> Script:
    """Build the script that the command line asks for."""
    scripts: list[Script] = []
    if options.defer_fraction > 0:
        scripts.append(
            defer_fraction(
                options.defer_fraction,
                options.defer_seed,
                first_attempt_only=not options.defer_always,
            )
        )
    if options.reply_delay > 0:
        scripts.append(fail_at(Stage.FINAL_DOT, Delay(options.reply_delay)))
    return first_of(*scripts) if scripts else accept_all


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    tls = server_context(options.certificate, options.key) if options.certificate else None
    upstream = ScriptedUpstream(
        script_of(options),
        options.host,
        options.port,
        Extensions(
            starttls=tls,
            tls_required=options.tls_required,
            auth=("PLAIN", "LOGIN") if options.users else (),
            auth_only_with_tls=True,
            auth_required=options.users is not None,
            credentials=UsersFile(options.users) if options.users else None,
        ),
        keep_content=False,
        keep_received=False,
    )
    record = Record(options.record) if options.record else None
    if record is not None:
        upstream.on_rcpt, upstream.on_delivery = record.rcpt, record.delivery
        upstream.on_login_refused = record.login_refused
    async with upstream:
        sys.stdout.write(f"READY {upstream.port}\n")
        sys.stdout.flush()
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), FLUSH_SECONDS)
            except TimeoutError:
                if record is not None:
                    record.flush()
        await upstream.stop(GRACE_SECONDS)
    if record is not None:
        record.close()


if __name__ == "__main__":
    asyncio.run(serve(parse_arguments(sys.argv[1:])))
