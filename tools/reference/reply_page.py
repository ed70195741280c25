"""docs/reference/replies.md: what the ingress answers, and what the sender says of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from mailrelay.mail.reply import Reply
from mailrelay_ingress import replies
from mailrelay_sender import classify
from tools.reference.markdown import code, table

_INTRODUCTION = """\
# Replies

## What clients are answered

All of them stand in `mailrelay_ingress.replies`. A failure of the relay itself is always a 4xx:
the client keeps the mail and comes again.
"""
_AIOSMTPD = """
aiosmtpd answers some commands itself (EHLO, HELO, NOOP, HELP, QUIT, AUTH, unknown ones). Where it
gives no enhanced status code, its replies get this one:
"""
_SENDER = """
## What stands in a recipient's record when no server said it

From `mailrelay_sender.classify`. Those that begin with 4 mean another attempt, except that a resend
has only one.
"""
_SAMPLES = {"seconds": 300.0, "replies": Reply(451, "4.4.1", "<the reason of each smart host>")}


def reply_page() -> str:
    """Return the page."""
    given = [(name, value) for name, value in vars(replies).items() if isinstance(value, Reply)]
    given.append(("accepted", replies.accepted("<queue id>")))
    by_code = ((code(number), code(own)) for number, own in replies.ENHANCED_BY_CODE.items())
    head = ("Code", "Enhanced", "Text", "Name")
    return "\n".join(
        (
            _INTRODUCTION,
            table(head, (_row(name, reply) for name, reply in given)),
            _AIOSMTPD.lstrip(),
            table(("Code", "Enhanced"), by_code),
            _SENDER.lstrip(),
            table(head, (_row(name, reply) for name, reply in _sender_replies())),
        )
    )


def _row(name: str, reply: Reply) -> tuple[str, ...]:
    return str(reply.code), reply.enhanced, reply.text.replace("<", "\\<"), code(name)


def _sender_replies() -> Iterator[tuple[str, Reply]]:
    for name, value in vars(classify).items():
        if isinstance(value, Reply):
            yield name, value
        elif inspect.isfunction(value) and value.__annotations__.get("return") == "Reply":
            arguments = (
                _SAMPLES.get(parameter, f"<{parameter}>")
                for parameter in inspect.signature(value).parameters
            )
            yield name, value(*arguments)
