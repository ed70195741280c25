"""Shapes of real mail, as octets in canonical CRLF form, that a relay must not disturb.

The bytes are the same for the same seed on every machine: generated ones use the
stdlib's `email` with fixed dates, ids and boundaries. What the library would
tidy up is written by hand in `message_shapes`.
"""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage, MIMEPart
from typing import TYPE_CHECKING, NamedTuple

from tests.support.message_shapes import SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CRLF = policy.SMTP.clone(cte_type="8bit", refold_source="none")
_WORDS = ("queue", "relay", "stream", "lane", "letter", "stamp", "harbour", "lantern", "paper")


class CorpusMessage(NamedTuple):
    """One message; the flags say what a MAIL command for it has to declare."""

    name: str
    content: bytes
    needs_8bit: bool  # BODY=8BITMIME
    needs_smtputf8: bool  # SMTPUTF8: a header section with octets above 127


@dataclass(frozen=True, slots=True)
class _Maker:
    """Fixed headers and seeded text for one message."""

    draw: random.Random
    number: int

    def text(self, words: int) -> str:
        lines = [" ".join(self.draw.choices(_WORDS, k=9)) for _ in range(max(1, words // 9))]
        return "\n".join(lines) + "\n"

    def octets(self, size: int) -> bytes:
        return self.draw.randbytes(size)

    def message(self, subject: str) -> EmailMessage:
        message = EmailMessage(policy=_CRLF)
        message["From"] = "Ada Sender <ada@sender.test>"
        message["To"] = "Bo Reader <bo@reader.test>"
        message["Subject"] = f"{subject} {self.number}"
        message["Date"] = "Tue, 02 Jan 2024 03:04:05 +0000"
        message["Message-ID"] = f"<corpus.{self.number}@sender.test>"
        return message

    def finish(self, message: EmailMessage) -> bytes:
        for n, part in enumerate(part for part in message.walk() if part.is_multipart()):
            if part.get_content_maintype() == "multipart":
                part.set_boundary(f"=-corpus-{self.number}-{n}")
        return message.as_bytes(policy=_CRLF)


def plain_text(make: _Maker) -> bytes:
    """Seven-bit text, one part."""
    message = make.message("Plain")
    message.set_content(make.text(120))
    return make.finish(message)


def alternative(make: _Maker) -> bytes:
    """Text and HTML: multipart/alternative."""
    message = make.message("Alternative")
    message.set_content(make.text(60))
    message.add_alternative(f"<html><body><p>{make.text(60)}</p></body></html>", subtype="html")
    return make.finish(message)


def mixed_with_attachments(make: _Maker, size: int = 40_000) -> bytes:
    """Text with two attachments in base64; `size` octets before encoding."""
    message = make.message("Attachments")
    message.set_content(make.text(30))
    message.add_attachment(
        make.octets(size - size // 4), "application", "pdf", filename="report.pdf"
    )
    message.add_attachment(make.octets(size // 4), "image", "png", filename="Übersicht.png")
    return make.finish(message)


def related_in_alternative(make: _Maker) -> bytes:
    """HTML with an inline picture: multipart/related within alternative."""
    message = make.message("Newsletter")
    message.set_content(make.text(40))
    message.add_alternative('<p><img src="cid:logo@sender.test"></p>', subtype="html")
    html = message.get_payload(1)
    if isinstance(html, MIMEPart):
        html.add_related(make.octets(2_000), "image", "gif", cid="<logo@sender.test>")
    return make.finish(message)


def quoted_printable(make: _Maker) -> bytes:
    """Quoted-printable with soft line breaks and encoded words in the Subject."""
    message = make.message("Größe: naïve façade")
    message.set_content(("Änderung für alle, " * 20) + "\n" + make.text(30), cte="quoted-printable")
    return make.finish(message)


def nested_message(make: _Maker) -> bytes:
    """A forwarded message as message/rfc822."""
    inner = make.message("Inner")
    inner.set_content(make.text(30))
    message = make.message("Fwd: Inner")
    message.set_content("See below.\n")
    message.add_attachment(inner)
    return make.finish(message)


def signed_smime(make: _Maker) -> bytes:
    """What looks like S/MIME: one opaque base64 part."""
    message = make.message("Signed")
    message.set_content(
        make.octets(3_000),
        "application",
        "pkcs7-mime",
        filename="smime.p7m",
        params={"smime-type": "signed-data"},
    )
    return make.finish(message)


_GENERATED: tuple[Callable[[_Maker], bytes], ...] = (
    plain_text,
    alternative,
    mixed_with_attachments,
    related_in_alternative,
    quoted_printable,
    nested_message,
    signed_smime,
)


def of_size(size: int, seed: int = 0, ledger_id: str = "") -> bytes:
    """Make a message of exactly `size` octets, the bulk of it one base64 attachment."""
    head = (
        "From: <ada@sender.test>\r\nTo: <bo@reader.test>\r\nSubject: Big\r\n"
        "Date: Tue, 02 Jan 2024 03:04:05 +0000\r\n"
        f"Message-ID: <big.{seed}.{size}@sender.test>\r\n"
        + (f"X-Ledger-Id: {ledger_id}\r\n" if ledger_id else "")
        + "MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\n"
    ).encode()
    room = size - len(head)
    if room < 0:
        raise ValueError(f"size {size}: at least {len(head)} octets are needed")
    block = base64.encodebytes(random.Random(seed).randbytes(57 * 64)).replace(b"\n", b"\r\n")  # noqa: S311 - filler
    body = (block * (room // len(block) + 1))[:room]
    if room >= 2:
        body = body[:-2].rstrip(b"\r\n")
        body += b"=" * (room - 2 - len(body)) + b"\r\n"
    return head + body


def corpus(seed: int, count: int) -> Iterator[CorpusMessage]:
    """Yield so many messages, all shapes in turn; names are unique within a corpus."""
    shapes = len(_GENERATED) + len(SHAPES)
    for number in range(count):
        turn, place = divmod(number, shapes)
        draw = random.Random(f"{seed}:{number}")  # noqa: S311 - shapes, not secrets
        if place < len(_GENERATED):
            maker = _GENERATED[place]
            name, content = maker.__name__, maker(_Maker(draw, number))
        else:
            name, shape = SHAPES[place - len(_GENERATED)]
            content = shape(draw, number)
        head = content.partition(b"\r\n\r\n")[0]
        yield CorpusMessage(
            name=f"{name}-{turn}",
            content=content,
            needs_8bit=not content.isascii(),
            needs_smtputf8=not content.startswith(b"\r\n") and not head.isascii(),
        )


def every_shape(seed: int = 0) -> list[CorpusMessage]:
    """List one message of each shape."""
    return list(corpus(seed, len(_GENERATED) + len(SHAPES)))
