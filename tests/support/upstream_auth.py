"""AUTH PLAIN (RFC 4616) and LOGIN as a dialogue of pure steps (RFC 4954 §4)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CANCELLED = Reply(501, "5.7.0 Authentication cancelled")
NOT_BASE64 = Reply(501, "5.5.2 Not base64")
MALFORMED = Reply(501, "5.5.2 Malformed PLAIN response")
INVALID = Reply(535, "5.7.8 Authentication credentials invalid")
NOT_OFFERED = Reply(504, "5.5.4 Mechanism not offered")

# "Username:" and "Password:": what every LOGIN client knows.
ASK_USER = Reply(334, "VXNlcm5hbWU6")
ASK_PASSWORD = Reply(334, "UGFzc3dvcmQ6")


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The end of a dialogue that went well."""

    user: str


Step = Reply | Authenticated


class AuthDialogue:
    """One AUTH command and the lines after it; a 334 asks for the next line."""

    def __init__(self, mechanisms: tuple[str, ...], credentials: Mapping[str, str] | None) -> None:
        self._mechanisms = mechanisms
        self._credentials = credentials
        self._user = b""
        self._next: Callable[[bytes], Step] = self._plain

    def begin(self, argument: bytes) -> Step:
        """Take the AUTH command's argument."""
        mechanism, _, initial = argument.partition(b" ")
        name = mechanism.decode("ascii", "replace").upper()
        if name not in self._mechanisms:
            return NOT_OFFERED
        if name == "PLAIN":
            return self.answer(initial) if initial else Reply(334, "")
        self._next = self._login_user
        return self.answer(initial) if initial else ASK_USER

    def answer(self, line: bytes) -> Step:
        """Take the client's next line."""
        if line == b"*":
            return CANCELLED
        try:
            decoded = base64.b64decode(b"" if line == b"=" else line, validate=True)
        except binascii.Error:
            return NOT_BASE64
        return self._next(decoded)

    def _plain(self, response: bytes) -> Step:
        parts = response.split(b"\0")  # authorization identity, user, password
        if len(parts) != 3:
            return MALFORMED
        return self._check(parts[1], parts[2])

    def _login_user(self, user: bytes) -> Step:
        self._user = user
        self._next = lambda password: self._check(self._user, password)
        return ASK_PASSWORD

    def _check(self, user: bytes, password: bytes) -> Step:
        name = user.decode("utf-8", "replace")
        known = self._credentials
        if known is not None and known.get(name) != password.decode("utf-8", "replace"):
            return INVALID
        return Authenticated(name)
