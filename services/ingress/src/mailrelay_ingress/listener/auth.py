"""AUTH (RFC 4954): who the client is. PLAIN and LOGIN are aiosmtpd's, the judgement is not.

aiosmtpd asks for a verdict at once, and a hash takes time. So it only takes the credentials in,
and is told that all was said; the check comes behind it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from aiosmtpd.smtp import MISSING, SMTP, AuthResult, Envelope, LoginPassword, Session

from mailrelay_ingress import replies
from mailrelay_ingress.authentication import Verdict
from mailrelay_ingress.listener.protocol import count_rejection
from mailrelay_ingress.listener.starttls import TlsConnection


class AuthConnection(TlsConnection):
    """A connection whose client may say who it is."""

    _login: LoginPassword | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Decide whether this client may send a password in the clear."""
        super().connection_made(transport)
        self._auth_require_tls = not self._parts.policy.allows_plaintext_auth(self._client)

    async def smtp_AUTH(self, arg: str) -> None:
        """AUTH; the mechanism's name in any case (RFC 5321 section 2.4)."""
        if self._in_transaction:
            await self._say(replies.AUTH_IN_TRANSACTION)  # RFC 4954 section 4
            return
        mechanism, space, rest = (arg or "").partition(" ")
        await super().smtp_AUTH(mechanism.upper() + space + rest)
        login, self._login = self._login, None
        if login is not None:
            await self._judge(login)

    @property
    def _in_transaction(self) -> bool:
        return False

    async def _judge(self, login: LoginPassword) -> None:
        authenticator = self._parts.authenticator
        verdict = await authenticator.check(self._client.address, login.login, login.password)
        if verdict is Verdict.VALID:
            assert self.session is not None  # noqa: S101 — set by connection_made
            self.session.authenticated = True
            self._client = replace(self._client, user=login.login.decode("utf-8", "replace"))
            await self._say(replies.AUTHENTICATED)
            return
        self._parts.log.warning(
            "smtp.auth_failed",
            client=self._client.address,
            # What is nobody's name may be a password in the wrong place.
            user=authenticator.known_name(login.login),
            why=verdict.value,
        )
        if verdict is Verdict.THROTTLED:
            count_rejection(str(replies.TOO_MANY_FAILED_LOGINS))
            self.say_and_close(replies.TOO_MANY_FAILED_LOGINS)
            raise ConnectionResetError
        await self._say(
            replies.BAD_CREDENTIALS if verdict is Verdict.INVALID else replies.AUTH_UNAVAILABLE
        )

    def _take_login(
        self,
        _server: SMTP,
        _session: Session,
        _envelope: Envelope,
        _mechanism: str,
        login: Any,  # noqa: ANN401 — aiosmtpd's signature
    ) -> AuthResult:
        assert isinstance(login, LoginPassword)  # noqa: S101 — PLAIN and LOGIN give this
        self._login = login
        return AuthResult(success=False, handled=True)

    async def challenge_auth(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 — as the base
        """Ask for the next line; one that is too long ends the exchange, not the session."""
        try:
            return await super().challenge_auth(*args, **options)
        except ValueError:  # the reader's: its limit is `MAX_COMMAND_OCTETS`
            await self._say(replies.AUTH_LINE_TOO_LONG)
            return MISSING
