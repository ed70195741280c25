"""What an upstream took, as a value, and its line in a record file.

The body's hash is kept beside the whole content's: a relay must add trace
headers (RFC 5321 §4.4), so only the body can be held against what was sent.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LEDGER_HEADER = "X-Ledger-Id"

_IDS = re.compile(
    rb"^(message-id|x-ledger-id):[ \t]*(?:\r\n[ \t]+)?([^\r\n]*)", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One transaction whose content the upstream took responsibility for."""

    mail_from: str
    mail_params: tuple[str, ...]
    rcpt_tos: tuple[str, ...]  # the accepted ones only
    content: bytes  # exactly as sent, dots unstuffed; b"" when content is not kept
    wire: bytes  # as on the wire without the final dot; b"" unless asked for
    size: int
    sha256: str
    body_sha256: str
    message_id: str
    ledger_id: str
    tls: bool
    auth: str | None
    connection: int
    transaction: int
    time: float  # wall clock, seconds: comparable between processes of one machine


@dataclass(frozen=True, slots=True)
class ContentSummary:
    """What stays of a content that is not kept."""

    size: int
    sha256: str
    body_sha256: str
    message_id: str
    ledger_id: str


def summarise(content: bytes) -> ContentSummary:
    """Hash the content, and its body alone, and find the ids in its header section."""
    end = content.find(b"\r\n\r\n")
    if content.startswith(b"\r\n"):
        head, body = b"", memoryview(content)[2:]
    elif end < 0:
        head, body = content, memoryview(b"")
    else:
        head, body = content[:end], memoryview(content)[end + 4 :]
    ids: dict[bytes, str] = {}
    for name, value in _IDS.findall(head):
        ids.setdefault(name.lower(), value.decode("utf-8", "replace").strip())
    return ContentSummary(
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        body_sha256=hashlib.sha256(body).hexdigest(),
        message_id=ids.get(b"message-id", ""),
        ledger_id=ids.get(b"x-ledger-id", ""),
    )


def delivery_line(delivery: Delivery) -> str:
    """One line of a record file."""
    return json.dumps(
        {
            "kind": "delivery",
            "ledger_id": delivery.ledger_id,
            "message_id": delivery.message_id,
            "mail_from": delivery.mail_from,
            "mail_params": delivery.mail_params,
            "rcpt_tos": delivery.rcpt_tos,
            "size": delivery.size,
            "sha256": delivery.sha256,
            "body_sha256": delivery.body_sha256,
            "tls": delivery.tls,
            "auth": delivery.auth,
            "connection": delivery.connection,
            "transaction": delivery.transaction,
            "time": delivery.time,
        },
        separators=(",", ":"),
    )


def rcpt_line(address: str, nth: int, connection: int, transaction: int, time: float) -> str:
    """One line for a RCPT, refused or not; it is written before the answer is known."""
    return json.dumps(
        {
            "kind": "rcpt",
            "address": address,
            "nth": nth,
            "connection": connection,
            "transaction": transaction,
            "time": time,
        },
        separators=(",", ":"),
    )


def read_deliveries(path: Path) -> list[Delivery]:
    """Read back the deliveries of a record file, a torn last line left out."""
    deliveries = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            continue
        fields = json.loads(line)
        if fields.pop("kind") != "delivery":
            continue
        fields["rcpt_tos"] = tuple(fields["rcpt_tos"])
        fields["mail_params"] = tuple(fields["mail_params"])
        deliveries.append(Delivery(content=b"", wire=b"", **fields))
    return deliveries


def count_refused_logins(path: Path) -> int:
    """How often AUTH went wrong according to a record file."""
    return path.read_bytes().count(b'"kind":"login refused"')


def count_rcpts(path: Path) -> dict[str, int]:
    """How often each recipient was seen according to a record file."""
    seen: dict[str, int] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and b'"kind":"rcpt"' in line:
            address = json.loads(line)["address"]
            seen[address] = seen.get(address, 0) + 1
    return seen
