"""Read a `Received` field strictly by the grammar of RFC 5321 §4.4, and nothing more lenient.

`Opt-info` has its clauses in the RFC's order; a comment may stand wherever CFWS may.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

_FWS = r"(?:(?:[ \t]*\r\n)?[ \t]+)"
_COMMENT = r"\((?:[^()\\\r\n]|\\.|" + _FWS + r")*\)"
_CFWS = rf"(?:(?:{_FWS}?{_COMMENT})+{_FWS}?|{_FWS})"
_LABEL = r"[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9\-\u0080-\U0010ffff]*[A-Za-z0-9])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[(?:IPv6:[0-9A-Fa-f:.]+|[0-9.]+)\]"
_TCP_INFO = rf"(?:{_DOMAIN}{_FWS})?{_LITERAL}"
_EXTENDED = rf"(?:{_DOMAIN}(?:{_FWS}\({_TCP_INFO}\))?|{_LITERAL}{_FWS}\({_TCP_INFO}\))"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+"
_QUOTED = r'"(?:[^"\\\r\n]|\\.)*"'
_LOCAL = rf"(?:[^\s<>()\[\]\\,;:@\"]+|{_QUOTED})"
_MAILBOX = rf"{_LOCAL}@(?:{_DOMAIN}|{_LITERAL})"
_STAMP = re.compile(
    rf"Received:{_FWS}FROM{_FWS}(?P<origin>{_EXTENDED})"
    rf"{_CFWS}BY{_FWS}(?P<by>{_EXTENDED})"
    rf"(?:{_CFWS}VIA{_FWS}{_ATOM})?"
    rf"(?:{_CFWS}WITH{_FWS}(?P<protocol>{_ATOM}))?"
    rf"(?P<comments>(?:{_FWS}?{_COMMENT})*)"
    rf"(?:{_CFWS}ID{_FWS}(?P<id>{_ATOM}(?:\.{_ATOM})*|<[^<>\s]+>))?"
    rf"(?:{_CFWS}FOR{_FWS}<?(?P<recipient>{_MAILBOX})>?)?"
    rf"{_CFWS}?;{_FWS}(?P<date>[^\r\n]+)\r\n",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{1,2} "
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d [+-]\d{4}"
)


@dataclass(frozen=True, slots=True)
class ReceivedStamp:
    """One `Received` field, taken apart."""

    origin: str  # domain and TCP-info, as written
    by: str
    protocol: str
    comment: str  # what stands between `with` and `id`, usually of TLS
    queue_id: str
    recipient: str  # of the `for` clause; empty without one
    date: dt.datetime


def parse_received(field: bytes) -> ReceivedStamp:
    """Take one field apart, its CRLF included; an AssertionError says that it is none."""
    text = field.decode()
    stamp = _STAMP.fullmatch(text)
    assert stamp is not None, f"not a Received field by RFC 5321 section 4.4: {text!r}"
    assert _DATE.fullmatch(stamp["date"]), f"not a date by RFC 5322 section 3.3: {stamp['date']!r}"
    assert max(map(len, text.split("\r\n"))) <= 998, f"a line of the field is too long: {text!r}"
    return ReceivedStamp(
        origin=stamp["origin"],
        by=stamp["by"],
        protocol=stamp["protocol"] or "",
        comment=stamp["comments"].strip(),
        queue_id=stamp["id"] or "",
        recipient=stamp["recipient"] or "",
        # "-0000" is UTC too, with nothing said of the local zone (RFC 5322 section 3.3).
        date=parsedate_to_datetime(stamp["date"].replace("-0000", "+0000")),
    )
