"""Shapes written by hand, because a library would tidy them up.

All of them can be carried by SMTP: CRLF line ends only, lines of at most 998
octets (RFC 5321 §4.5.3.1.6), no NUL, and CRLF at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# RFC 5322 §2.1.1: 998 octets and the CRLF.
LONGEST_LINE = 998

Shape = tuple[str, "Callable[[random.Random, int], bytes]"]


def _head(number: int, *without: str, extra: str = "") -> bytes:
    fields = {
        "from": "From: Ada Sender <ada@sender.test>\r\n",
        "to": "To: bo@reader.test\r\n",
        "subject": f"Subject: Shape {number}\r\n",
        "date": "Date: Tue, 02 Jan 2024 03:04:05 +0000\r\n",
        "message-id": f"Message-ID: <shape.{number}@sender.test>\r\n",
    }
    return ("".join(fields[name] for name in fields if name not in without) + extra).encode()


def _fixed(name: str, body: bytes, *without: str, extra: str = "", blank: bytes = b"\r\n") -> Shape:
    def shape(_draw: random.Random, number: int) -> bytes:
        return _head(number, *without, extra=extra) + blank + body

    return name, shape


def _whole(name: str, content: bytes) -> Shape:
    return name, lambda _draw, _number: content


def _text_in(name: str, text: str, charset: str) -> Shape:
    extra = (
        f"MIME-Version: 1.0\r\nContent-Type: text/plain; charset={charset}\r\n"
        "Content-Transfer-Encoding: 8bit\r\n"
    )
    return _fixed(name, text.encode(charset), extra=extra)


def _binary(draw: random.Random, number: int) -> bytes:
    """Octets 1 to 255 without CR and LF, in lines."""
    allowed = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    lines = [bytes(draw.choices(allowed, k=draw.randrange(1, 200))) for _ in range(40)]
    extra = (
        "MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
        "Content-Transfer-Encoding: 8bit\r\n"
    )
    return _head(number, extra=extra) + b"\r\n" + b"".join(line + b"\r\n" for line in lines)


def _many_dots(draw: random.Random, number: int) -> bytes:
    """Lines drawn from what transparency can get wrong."""
    choices = [b".", b"..", b"...", b".x", b". ", b"x.", b"", b".\t.", b"-- ."]
    lines = b"".join(draw.choice(choices) + b"\r\n" for _ in range(200))
    return _head(number) + b"\r\n" + lines


_RECEIVED = "".join(
    f"Received: from hop{n}.test (hop{n}.test [192.0.2.{n}])\r\n"
    f"\tby hop{n + 1}.test with ESMTPS id {n:08x}\r\n\t; Tue, 02 Jan 2024 03:04:{n:02} +0000\r\n"
    for n in range(1, 9)
)
_DKIM = (
    "DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=sender.test; s=s1;\r\n"
    "\th=From:To:Subject:Date : Message-ID; bh=g3zLYH4xKxcPrHOD18z9YfpQcnk/GaJedfustWU5uGs=;\r\n"
    "  b=VnmRZwxmnhF2Ss8m0Cw9Yk5O8mqFgHkK2m4xq1Yt0aU1h2m3n4o5p6q7r8s9t0uvwxyzABCDEFGHIJ\r\n"
    "\t KLMNOPQRSTUVWXYZ0123456789+/abcdefghijkl==\r\n"
)
_FOLDED = (
    "X-Folded: first\r\n second\r\n\tthird  with  two  spaces \r\n"
    " \tfourth\r\nX-Only-Folded:\r\n begins on the second line\r\n"
)
_REFERENCES = (
    "References:" + "".join(f"\r\n <{n:04}.{'r' * 40}@thread.test>" for n in range(120)) + "\r\n"
)
_MANY = "".join(f"X-Field-{n}: value {n}\r\n" for n in range(900))
_ODD_CASE = (
    "x-mAiLeR: odd\r\nCONTENT-TYPE: TEXT/PLAIN\r\nmime-VERSION: 1.0\r\nX-Spaced   : kept\r\n"
)
_FLOWED = "MIME-Version: 1.0\r\nContent-Type: text/plain; format=flowed; delsp=yes\r\n"
_QP = (
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Transfer-Encoding: quoted-printable\r\n"
)
_REPORT = (
    "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="=-dsn"\r\n'
)
_REPORT_BODY = (
    b"This is a MIME report.\r\n\r\n--=-dsn\r\nContent-Type: text/plain\r\n\r\n"
    b"Your message could not be delivered.\r\n\r\n--=-dsn\r\n"
    b"Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.reader.test\r\n\r\n"
    b"Final-Recipient: rfc822; bo@reader.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    b"Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n\r\n--=-dsn\r\n"
    b"Content-Type: text/rfc822-headers\r\n\r\nFrom: ada@sender.test\r\nSubject: Hello\r\n"
    b"\r\n--=-dsn--\r\n"
)
_UTF8_HEADERS = (
    "From: Zoë <zoë@sender.test>\r\nTo: 用户@例え.test\r\nSubject: Grüße 你好 ✉\r\n"
    "Date: Tue, 02 Jan 2024 03:04:05 +0000\r\nMessage-ID: <utf8@sender.test>\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Content-Transfer-Encoding: 8bit\r\n\r\nÇa va.\r\n"
).encode()

SHAPES: tuple[Shape, ...] = (
    _text_in("utf8_body", "Grüße, 你好, ✉\r\n" * 20, "utf-8"),
    _text_in("latin1_body", "Éclair, Ångström, über\r\n" * 20, "iso-8859-1"),
    _text_in("koi8_body", "Привет, мир\r\n" * 20, "koi8-r"),
    _whole("utf8_headers", _UTF8_HEADERS),
    _fixed("dot_lines", b".\r\n..\r\n.x\r\n...\r\n .\r\n.\r\n"),
    _fixed("first_line_dot", b".first\r\nrest\r\n"),
    _fixed("last_line_dot", b"first\r\n.last\r\n"),
    _fixed("last_line_one_dot", b"first\r\n.\r\n"),
    _fixed("only_one_dot", b".\r\n"),
    ("many_dots", _many_dots),
    _fixed("longest_lines", (b"x" * LONGEST_LINE + b"\r\n") * 3),
    _fixed("longest_line_of_dots", b"." * LONGEST_LINE + b"\r\n"),
    _fixed(
        "longest_header_line", b"text\r\n", extra="X-Long: " + "y" * (LONGEST_LINE - 8) + "\r\n"
    ),
    _fixed("empty_body", b""),
    _fixed("headers_only_without_blank_line", b"", blank=b""),
    _whole("body_only_after_blank_line", b"\r\nNo header at all.\r\n"),
    _whole("empty_content", b"\r\n"),
    _fixed("blank_lines_at_end", b"text\r\n\r\n\r\n\r\n"),
    _fixed("body_of_blank_lines", b"\r\n\r\n\r\n"),
    _fixed("folded_headers", b"text\r\n", extra=_FOLDED),
    _fixed("received_headers", b"text\r\n", extra=_RECEIVED),
    _fixed("many_headers", b"text\r\n", extra=_MANY),
    _fixed("long_references", b"text\r\n", extra=_REFERENCES),
    _fixed("no_date", b"text\r\n", "date"),
    _fixed("no_message_id", b"text\r\n", "message-id"),
    _fixed("no_date_no_message_id", b"text\r\n", "date", "message-id"),
    _fixed(
        "lower_case_ids",
        b"text\r\n",
        "date",
        "message-id",
        extra="date: Tue, 02 Jan 2024 03:04:05 +0000\r\nmessage-id: <lower@sender.test>\r\n",
    ),
    _fixed(
        "ids_in_the_body_only", b"Date: in the body\r\nMessage-ID: <b@b>\r\n", "date", "message-id"
    ),
    _fixed("no_from", b"text\r\n", "from"),
    _fixed("dkim_signed", b"Signed  text \r\nwith\tspaces   \r\n\r\n\r\n", extra=_DKIM),
    _fixed("flowed", b"A line that flows \r\non to the next. \r\n-- \r\nAda\r\n", extra=_FLOWED),
    _fixed("trailing_white_space", b"spaces   \r\ntab\t\r\n \t \r\n   \r\n"),
    ("binary_8bit", _binary),
    _fixed("soft_breaks", b"Gr=C3=BC=\r\n=C3=9Fe =\r\n=2E\r\n.=\r\n.end=20\r\n", extra=_QP),
    _fixed("delivery_report", _REPORT_BODY, extra=_REPORT),
    _fixed("empty_header_value", b"text\r\n", extra="X-Empty:\r\nX-Space: \r\nCc:\r\n"),
    _fixed("odd_case_names", b"text\r\n", extra=_ODD_CASE),
    _fixed(
        "duplicate_headers", b"text\r\n", extra="X-Twice: 1\r\nX-Twice: 2\r\nSubject: again\r\n"
    ),
    _fixed("mbox_from_line", b"From the start\r\n>From quoted\r\n"),
    _fixed("smtp_words", b"QUIT\r\nRSET\r\nDATA\r\n250 2.0.0 Ok\r\n"),
)
