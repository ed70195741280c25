"""The commands of a connection to the upstream, and what is wrong with each.

Order and syntax come first and belong to the server; only a command without
fault goes to the script. What a client does against the RFCs without a refusal
being due is noted as a violation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.extensions import parse_path
from tests.support.replies import Reply
from tests.support.scripting import Stage
from tests.support.upstream_auth import AuthDialogue, Authenticated
from tests.support.upstream_connection import OK, UpstreamConnection

if TYPE_CHECKING:
    from tests.support.upstream import ScriptedUpstream

# RFC 2920 §3.1: these wait for their answer before the client says more.
ENDS_GROUP = frozenset({b"EHLO", b"HELO", b"DATA", b"STARTTLS", b"AUTH", b"QUIT", b"NOOP", b"VRFY"})

BAD_SEQUENCE = Reply(503, "5.5.1 Bad sequence of commands")


class UpstreamSession(UpstreamConnection):
    """The server's side of one connection, with its commands."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        super().__init__(upstream)
        self._auth: AuthDialogue | None = None
        self._handlers = {
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b"EHLO": self._ehlo,
            b"HELO": self._helo,
            b"RSET": lambda _argument: self._ask(Stage.RSET),
            b"QUIT": lambda _argument: self._ask(Stage.QUIT),
            b"NOOP": lambda _argument: self._say(OK),
            b"VRFY": lambda _argument: self._say(Reply(252, "2.1.5 Cannot VRFY user")),
            b"STARTTLS": self._starttls,
            b"AUTH": self._begin_auth,
        }

    def _command(self, line: bytes) -> None:
        if self._auth is not None:
            self._auth_step(self._auth.answer(line))
            return
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        if self._buffer:
            if not self._offers.pipelining or not self._greeted:
                self._violation(f"pipelining without leave after {verb!r}")
            elif verb in ENDS_GROUP:
                self._violation(f"{verb!r} is not the last of its group")
        if b"\n" in line or b"\r" in line:
            self._violation("bare CR or LF in a command")
            self._say(Reply(500, "5.5.2 Bare CR or LF"))
            return
        if self._turned_away and verb != b"QUIT":
            self._say(BAD_SEQUENCE)
            return
        handler = self._handlers.get(verb)
        if handler is None:
            self._say(Reply(500, "5.5.2 Command not recognised"))
        else:
            handler(argument)

    def _ehlo(self, argument: bytes) -> None:
        self._hello("EHLO", argument)

    def _helo(self, argument: bytes) -> None:
        self._hello("HELO", argument)

    def _hello(self, verb: str, argument: bytes) -> None:
        self._argument = (verb, ())
        if argument.strip():
            self._ask(Stage.EHLO)
        else:
            self._say(Reply(501, "5.5.4 Syntax error in arguments"))

    def _mail(self, argument: bytes) -> None:
        path = parse_path(argument) if argument[:5].upper() == b"FROM:" else None
        if not self._greeted or self._in_transaction:
            self._say(BAD_SEQUENCE)
        elif path is None:
            self._say(Reply(501, "5.1.7 Bad sender address syntax"))
        elif self._offers.tls_required and not self.tls:
            self._say(Reply(530, "5.7.0 Must issue a STARTTLS command first"))
        elif self._offers.auth_required and self._user is None:
            self._say(Reply(530, "5.7.0 Authentication required"))
        else:
            address, params, gap = path
            if gap:
                self._violation("space after MAIL FROM:")
            wrong = self._offers.check_mail(address, params)
            if wrong is not None:
                self._say(wrong)
                return
            self._argument = (address, params)
            self.transaction = self._upstream.next_transaction()
            self._ask(Stage.MAIL)

    def _rcpt(self, argument: bytes) -> None:
        path = parse_path(argument) if argument[:3].upper() == b"TO:" else None
        if not self._in_transaction:
            self._say(BAD_SEQUENCE)
            return
        if path is None or not path[0]:
            self._say(Reply(501, "5.1.3 Bad recipient address syntax"))
            return
        address, params, gap = path
        if gap:
            self._violation("space after RCPT TO:")
        wrong = self._offers.check_rcpt(params)
        smtputf8 = "SMTPUTF8" in {param.upper() for param in self._mail_params}
        if wrong is None and not address.isascii() and not smtputf8:
            wrong = Reply(553, "5.6.7 SMTPUTF8 needed")  # RFC 6531 §3.5
        if wrong is not None:
            self._say(wrong)
            return
        self._argument = (address, params)
        nth = self._upstream.rcpt_seen(address, self.connection, self.transaction)
        self._ask(Stage.RCPT, nth)

    def _data(self, _argument: bytes) -> None:
        if not self._in_transaction:
            self._say(BAD_SEQUENCE)
        elif not self._rcpt_tos:
            self._say(Reply(554, "5.5.1 No valid recipients"))  # RFC 5321 §3.3
        else:
            self._ask(Stage.DATA)

    def _starttls(self, _argument: bytes) -> None:
        offered = self._offers.starttls is not None and not self.tls
        if not offered or not self._greeted or self._in_transaction:
            self._say(BAD_SEQUENCE)
        else:
            self._ask(Stage.STARTTLS)

    def _begin_auth(self, argument: bytes) -> None:
        if not self._greeted or self._user is not None or self._in_transaction:
            self._say(BAD_SEQUENCE)
        elif self._offers.auth and not self._offers.offers_auth(tls=self.tls):
            self._say(Reply(538, "5.7.11 Encryption required"))  # RFC 4954 §6
        else:
            self._auth = AuthDialogue(self._offers.auth, self._offers.credentials)
            self._auth_step(self._auth.begin(argument))

    def _auth_step(self, step: Reply | Authenticated) -> None:
        if isinstance(step, Authenticated):
            self._auth = None
            self._argument = (step.user, ())
            self._ask(Stage.AUTH)
            return
        if step.code != 334:
            self._auth = None
            self._upstream.login_refused(step.code)
        self._say(step)
