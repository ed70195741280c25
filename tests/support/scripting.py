"""What a script may be asked and what it may answer.

A script is a plain function of a stage and a context: it decides, the server
acts. Rules the server adds to an action:

- A `Reply` moves the session on exactly when its code says so: 2xx, or 354 at
  DATA. A 421 is always followed by closing the connection (RFC 5321 §3.8).
- `Accept` is the server's own good reply, or its own refusal where the client
  broke the protocol: no script can make the server forget the RFC.
- After `Garbage` the session stands as after a refusal.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.replies import Reply


class Stage(enum.Enum):
    """The points of a session at which the script is asked."""

    CONNECT = "CONNECT"
    EHLO = "EHLO"  # HELO too
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"  # after the credentials were read and found good
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    FINAL_DOT = "FINAL_DOT"  # all content is here, the reply is not yet out
    RSET = "RSET"
    QUIT = "QUIT"


@dataclass(frozen=True, slots=True)
class Context:
    """What is known when the script is asked; addresses without angle brackets."""

    connection: int  # counted from 1 over the upstream's life, restarts included
    transaction: int  # counted from 1 over the upstream's life at each MAIL; 0 before
    address: str  # the reverse path at MAIL, the recipient at RCPT, else ""
    nth: int  # at RCPT: how often this recipient was seen, this time included; else 0
    mail_from: str  # of the open transaction
    rcpt_tos: tuple[str, ...]  # accepted so far in the open transaction
    content: bytes  # at FINAL_DOT, after dot-unstuffing
    tls: bool
    auth: str | None


@dataclass(frozen=True, slots=True)
class Accept:
    """Go on as a plain server would."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing for so many seconds, then accept; `None` is until the end."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """Drop the connection without a reply, orderly or with a reset (RST)."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class AcceptThenClose:
    """At FINAL_DOT: take the message, then drop the connection without a reply.

    The client cannot know that the message was taken; its next attempt is a
    duplicate that no sender can avoid.
    """

    reset: bool = False


@dataclass(frozen=True, slots=True)
class CloseInContent:
    """At DATA: answer 354, read at least so many octets of content, then drop."""

    after_bytes: int = 0
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Garbage:
    """Send these octets in place of a reply."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Delay:
    """Do the other action after so many seconds."""

    seconds: float
    then: Action = Accept()


Action = Reply | Accept | Stall | Close | AcceptThenClose | CloseInContent | Garbage | Delay
Script = Callable[[Stage, Context], Action]

ACCEPT = Accept()
