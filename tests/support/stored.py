"""What another mail server wrote into its Maildir, and how it differs from what was sent.

A mail server puts fields of its own on top when it delivers: they are taken off here. What is
left is what came over the wire, with the line ends of the file (LF) made CRLF again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.received import ReceivedStamp, parse_received

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FIRST_FIELD = re.compile(rb"([!-9;-~]+):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
SHOWN_OCTETS = 160


@dataclass(frozen=True, slots=True)
class StoredMail:
    """One file of a Maildir."""

    reverse_path: str
    recipient: str  # as the server got it in RCPT
    peer_received: bytes  # the field that the server added
    content: bytes  # what it took in DATA


def take_field(content: bytes) -> tuple[str, bytes, bytes]:
    """Split off the first field: its name in lower case, the whole field, what follows."""
    match = _FIRST_FIELD.match(content)
    assert match is not None, f"no header field at {content[:SHOWN_OCTETS]!r}"
    return match.group(1).decode().lower(), match.group(), content[match.end() :]


def read_stored(octets: bytes, recipient_fields: Sequence[str]) -> StoredMail:
    """Read a stored mail: the server's own fields end with its `Received`."""
    rest = octets.replace(b"\n", b"\r\n")
    own: dict[str, str] = {}
    while True:
        name, field, rest = take_field(rest)
        if name == "received":
            break
        own[name] = field.decode().partition(":")[2].strip()
    recipient = next(own[name] for name in recipient_fields if name in own)
    return StoredMail(
        reverse_path=own["return-path"].removeprefix("<").removesuffix(">"),
        recipient=recipient,
        peer_received=field,
        content=rest,
    )


class Maildir:
    """A Maildir that fills up; each file is read once."""

    def __init__(self, folder: Path, recipient_fields: Sequence[str]) -> None:
        self._new = folder / "new"
        self._recipient_fields = recipient_fields
        self._read: dict[str, StoredMail] = {}

    def count(self) -> int:
        """How many mails there are."""
        return sum(1 for _ in self._new.iterdir()) if self._new.is_dir() else 0

    def mails(self) -> list[StoredMail]:
        """All mails, in the order in which they were first seen."""
        for file in sorted(self._new.iterdir()) if self._new.is_dir() else []:
            if file.name not in self._read:
                self._read[file.name] = read_stored(file.read_bytes(), self._recipient_fields)
        return list(self._read.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """A stored content held against what the client had sent."""

    received: ReceivedStamp  # the relay's
    added_date: bool
    added_message_id: bool
    difference: str  # empty when all else is the same, octet for octet

    @property
    def identical(self) -> bool:
        """Whether nothing was changed."""
        return not self.difference


def has_field(content: bytes, name: str) -> bool:
    """Whether the header section has such a field."""
    head = b"\r\n" + content.partition(b"\r\n\r\n")[0] if content[:2] != b"\r\n" else b""
    return re.search(rb"(?i)\r\n" + name.encode() + rb"[ \t]*:", head) is not None


def compare(sent: bytes, stored: bytes, *, by_way_of: str = "") -> Comparison:
    """Take off the one `Received`, and `Date` and `Message-ID` where the client gave none.

    What is left must be what was sent, so nothing else was added, removed or changed.
    `by_way_of` names a mail server between client and relay: its `Received` stands below.
    """
    name, field, rest = take_field(stored)
    assert name == "received", f"the relay's Received field is not on top: {field!r}"
    received = parse_received(field)
    added = {wanted: not has_field(sent, wanted) for wanted in ("date", "message-id")}
    difference = ""
    expected = [wanted for wanted, is_missing in added.items() if is_missing]
    if by_way_of:
        expected.append("received")
    for wanted in expected:
        name, field, rest = take_field(rest)
        if name != wanted or (name == "received" and by_way_of.encode() not in field):
            difference = f"{wanted} is missing, {field!r} stands there"
            break
    if not difference and rest != sent:
        difference = _first_difference(sent, rest)
    return Comparison(received, added["date"], added["message-id"], difference)


def _first_difference(sent: bytes, stored: bytes) -> str:
    place = next(
        (n for n, (a, b) in enumerate(zip(sent, stored, strict=False)) if a != b),
        min(len(sent), len(stored)),
    )
    start = max(0, place - 20)
    return (
        f"{len(sent)} octets sent, {len(stored)} stored; from octet {place} on: "
        f"{sent[start : place + SHOWN_OCTETS]!r} became {stored[start : place + SHOWN_OCTETS]!r}"
    )
