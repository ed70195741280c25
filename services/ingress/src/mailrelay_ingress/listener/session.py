"""Mail over a connection: MAIL, RCPT, DATA. `policy` says what may be, and it is done."""

from __future__ import annotations

from typing import NoReturn

from mailrelay.mail.reply import Reply
from mailrelay.runtime.steps import passed
from mailrelay_ingress import replies
from mailrelay_ingress.accept import Submission
from mailrelay_ingress.listener.auth import AuthConnection
from mailrelay_ingress.listener.parts import ListenerParts, Sessions
from mailrelay_ingress.listener.protocol import count_rejection
from mailrelay_ingress.listener.receive import take_content
from mailrelay_ingress.session import Transaction

_TAKEN = 250


class SmtpSession(AuthConnection):
    """One client's connection, complete."""

    def __init__(self, parts: ListenerParts, sessions: Sessions) -> None:
        self._transaction: Transaction | None = None  # before the base resets it
        super().__init__(parts, sessions)

    @property
    def _in_transaction(self) -> bool:
        return self._transaction is not None

    def _end_transaction(self) -> None:
        if self._transaction is not None:
            self._transaction.reservation.release()
        self._transaction = None

    async def smtp_MAIL(self, arg: str) -> None:
        """MAIL FROM."""
        client = self._client
        verdict = self._parts.policy.on_mail(client, self._transaction, arg or "")
        if isinstance(verdict, Reply):
            self._log_rejection(verdict, arg)
            await self._say(verdict)
            return
        reserved = await self._parts.rate_limiter.reserve(verdict.reverse_path, client)
        if isinstance(reserved, Reply):  # which is in the log already
            await self._say(reserved)
            return
        verdict.reservation = reserved
        self._transaction = verdict
        await self._say(replies.SENDER_OK)

    async def smtp_RCPT(self, arg: str) -> None:
        """RCPT TO."""
        verdict = self._parts.policy.on_rcpt(self._transaction, arg or "")
        if isinstance(verdict, Reply):
            self._log_rejection(verdict, arg)
            await self._say(verdict)
            return
        assert self._transaction is not None  # noqa: S101 — policy saw it
        self._transaction.add(verdict)
        await self._say(replies.RECIPIENT_OK)

    async def smtp_DATA(self, arg: str) -> None:
        """DATA: take the content in and say what became of it."""
        client = self._client
        refusal = (
            replies.DATA_SYNTAX if arg else self._parts.policy.on_data(client, self._transaction)
        )
        if refusal is not None:
            await self._say(refusal)
            return
        assert self._transaction is not None  # noqa: S101 — policy saw it
        transaction = self._transaction
        submission = Submission.begin(client, transaction, self._parts.host_name)
        share = self._parts.budget.share()
        self.in_data = True
        ended = False
        try:
            if not await share.reserve_small():
                await self._say(replies.BUSY)
                return
            intake = self._parts.enqueuer.begin(submission, share, self._parts.policy.on_header)
            await self._say(replies.START_MAIL_INPUT)
            try:
                ended = await take_content(
                    self._reader, intake, self._parts.max_message_bytes, self._reset_timeout
                )
                transaction.reservation.storing()
                reply = await self._parts.enqueuer.finish(intake)
                transaction.reservation.settle(accepted=reply.code == _TAKEN)
            finally:
                await intake.abandon()
        except Exception as error:
            if ended or isinstance(error, ConnectionError):
                self._set_rset_state()  # or the next MAIL would be refused as nested, for good
                raise
            # What follows is the rest of the content: it must not be read as commands.
            self._log_exception(error)
            self._close_in_content(replies.LOCAL_ERROR)
        finally:
            share.give_back()
            self.in_data = False
        self._set_rset_state()
        if intake.refusal is not None:
            self._log_rejection(reply, "DATA", submission.queue_id)
        if not ended:
            self._close_in_content(reply)
        if intake.refusal is None and reply.code == _TAKEN:
            self._errors = 0
        await self._say(reply)
        passed("enqueue.reply_sent")
        if self._listener.is_stopping:
            self.say_and_close(replies.SHUTTING_DOWN)

    def _close_in_content(self, reply: Reply) -> NoReturn:
        """End the session where the end of the data was not found (SMTP smuggling)."""
        count_rejection(str(reply))
        self.say_and_close(reply)
        raise ConnectionResetError

    async def smtp_RSET(self, arg: str) -> None:
        """RSET."""
        if arg:
            await self.push("501 Syntax: RSET")
            return
        self._set_rset_state()
        await self._say(replies.RESET_OK)

    async def smtp_VRFY(self, arg: str) -> None:
        """VRFY: nothing is told of who exists (RFC 5321 section 7.3)."""
        await self.push("501 Syntax: VRFY <address>") if not arg else await self._say(
            replies.CANNOT_VERIFY
        )
