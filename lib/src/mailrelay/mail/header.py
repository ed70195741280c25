"""What the relay reads in a message's header section, and the fields it adds on top.

Content is sacred: nothing that came in is changed. One `Received` field goes on top, `Date` and
`Message-ID` only when the client gave none (RFC 6409 section 8). When the content does not begin
with a header field at all, an empty line keeps its first line from being read as one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache

from mailrelay.mail.address import is_helo_name
from mailrelay.mail.ids import QueueId

# Looked at for fields; a header section longer than this is passed on like any other, but what
# lies behind is not seen. Postfix's header_size_limit is about the same (102,400).
MAX_HEADER_BYTES = 128 * 1024

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")  # RFC 5322 section 3.6.8, with the obsolete white space
_TRACEPARENT = re.compile(
    rb"(?im)^traceparent[ \t]*:[ \t]*(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})[ \t]*\r\n"
)
_RECEIVED = re.compile(rb"(?im)^received[ \t]*:")


@dataclass(frozen=True, slots=True)
class HeaderSection:
    """The facts about a header section that the relay acts on."""

    begins_with_field: bool
    has_date: bool
    has_message_id: bool
    received_count: int
    traceparent: str  # W3C trace context, empty when the client gave none


def read_header(head: bytes) -> HeaderSection:
    """Read the header section at the beginning of `head` (the first `MAX_HEADER_BYTES` do)."""
    if head.startswith(b"\r\n"):
        section = b""
    else:
        end = head.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES)
        section = head[: MAX_HEADER_BYTES if end < 0 else end + 2]
    begins_with_field = section == b"" or _FIELD.match(section) is not None
    if not begins_with_field:
        section = b""
    trace = _TRACEPARENT.search(section)
    return HeaderSection(
        begins_with_field=begins_with_field,
        has_date=_has_field(section, b"date"),
        has_message_id=_has_field(section, b"message-id"),
        received_count=len(_RECEIVED.findall(section)),
        traceparent=trace.group(1).decode() if trace else "",
    )


def _has_field(section: bytes, name: bytes) -> bool:
    return re.search(rb"(?im)^" + name + rb"[ \t]*:", section) is not None


@dataclass(frozen=True, slots=True)
class Hop:
    """How a message reached us, for its `Received` field."""

    helo: str
    peer_address: str
    by: str
    esmtp: bool
    smtputf8: bool
    authenticated: bool
    tls: str  # such as "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384"; empty without TLS


def with_protocol(hop: Hop) -> str:
    """Return the `with` keyword (RFC 3848; RFC 6531 section 4.3 for the UTF8 names)."""
    if not hop.esmtp:
        return "SMTP"
    base = "UTF8SMTP" if hop.smtputf8 else "ESMTP"
    return base + ("S" if hop.tls else "") + ("A" if hop.authenticated else "")


def received_field(hop: Hop, queue_id: QueueId, recipients: tuple[str, ...], now: float) -> bytes:
    """Build the `Received` field (RFC 5321 section 4.4).

    `for` appears only with one recipient: with more it would tell each of them of the others.
    """
    literal = address_literal(hop.peer_address)
    name = hop.helo if is_helo_name(hop.helo) else literal
    lines = [f"Received: from {name} ({literal})", f"by {hop.by} with {with_protocol(hop)}"]
    if hop.tls:
        lines.append(f"(using {hop.tls})")
    lines.append(f"id {queue_id}")
    if len(recipients) == 1:
        lines.append(f"for <{recipients[0]}>")
    return ("\r\n\t".join(lines) + f";\r\n\t{date_text(int(now))}\r\n").encode()


def fields_on_top(
    section: HeaderSection, received: bytes, queue_id: QueueId, by: str, now: float
) -> bytes:
    """Return everything that goes in front of the client's content."""
    fields = received
    if not section.has_date:
        fields += f"Date: {date_text(int(now))}\r\n".encode()
    if not section.has_message_id:
        fields += f"Message-ID: <{queue_id}@{by}>\r\n".encode()
    return fields if section.begins_with_field else fields + b"\r\n"


def address_literal(address: str) -> str:
    """Write an IP address as RFC 5321 section 4.1.3 does."""
    bare = address.partition("%")[0]  # a scope id means nothing to others
    return f"[IPv6:{bare}]" if ":" in bare else f"[{bare}]"


@lru_cache(maxsize=2)
def date_text(now_seconds: int) -> str:
    """Return the RFC 5322 date of a second, cached: many messages share one."""
    return format_datetime(datetime.fromtimestamp(now_seconds, UTC))
