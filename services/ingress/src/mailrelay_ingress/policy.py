"""Decisions on what a client may do: each takes facts and returns a reply, or the way on. Pure."""

from __future__ import annotations

from typing import ClassVar

from mailrelay.config.model import RelayConfig
from mailrelay.config.networks import is_in, parse_network
from mailrelay.mail.address import AddressError, AddressFault, Path, parse_path
from mailrelay.mail.header import HeaderSection
from mailrelay.mail.reply import Reply
from mailrelay.queue.publish import MAX_BATCH
from mailrelay_ingress import replies
from mailrelay_ingress.session import Client, Transaction

MAX_RECEIVED_FIELDS = 100  # RFC 5321 section 6.3: a loop, at no fewer than 100
MAX_RECIPIENTS = 20_000  # what fits in the server's memory at batchSize 20; RFC 5321 asks for 100


class Policy:
    """The rules of one relay."""

    FOLLOWS: ClassVar = ("security", "batchSize")

    def __init__(self, config: RelayConfig) -> None:
        self.use(config)

    def use(self, config: RelayConfig) -> None:
        """Take a configuration's rules: they hold from the next command on."""
        self._max_message_bytes = config.max_message_bytes
        self._max_connections = config.max_connections
        self._local_only = config.security.allow_local_only
        self._trusts_loopback = config.security.trust_loopback
        self._networks = [parse_network(text) for text in config.security.allowed_networks]
        self._plaintext_auth = config.security.allow_plaintext_auth
        self._require_auth = config.security.require_auth
        self._max_recipients = min(MAX_RECIPIENTS, config.batch_size * MAX_BATCH)

    def on_connect(self, client: Client, connections: int, *, stopping: bool) -> Reply | None:
        """Say why a client is not served, or nothing."""
        if stopping:
            return replies.SHUTTING_DOWN
        is_known = self._is_trusted(client) or is_in(client.address, self._networks)
        if self._local_only and not is_known:
            return replies.CLIENT_DENIED
        if connections > self._max_connections:
            return replies.TOO_MANY_CONNECTIONS
        return None

    def allows_plaintext_auth(self, client: Client) -> bool:
        """Tell whether the client may send a password without TLS (RFC 4954 section 4: 538)."""
        return self._is_trusted(client) or self._plaintext_auth

    def _is_trusted(self, client: Client) -> bool:
        return client.is_local and self._trusts_loopback

    def on_mail(
        self, client: Client, current: Transaction | None, text: str
    ) -> Reply | Transaction:
        """Decide on MAIL FROM."""
        if not client.helo:
            return replies.SEND_HELO_FIRST
        if self._require_auth and not client.user:
            return replies.AUTH_REQUIRED
        if current is not None:
            return replies.NESTED_MAIL
        rest = _behind_keyword(text, "FROM:")
        if rest is None:
            return replies.MAIL_SYNTAX
        path = _path(rest, smtputf8=client.esmtp and _asks_smtputf8(rest))
        if isinstance(path, AddressFault):
            unicode = path is AddressFault.NEEDS_SMTPUTF8
            return replies.SENDER_NEEDS_SMTPUTF8 if unicode else replies.BAD_SENDER
        parameters = _mail_parameters(path.parameters) if client.esmtp else _none(path.parameters)
        if isinstance(parameters, Reply):
            return parameters
        if parameters.declared_bytes > self._max_message_bytes:
            return replies.TOO_BIG
        parameters.reverse_path = path.address
        return parameters

    def on_rcpt(self, current: Transaction | None, text: str) -> Reply | str:
        """Decide on RCPT TO: a refusal, or the recipient's address."""
        if current is None:
            return replies.NEED_MAIL
        rest = _behind_keyword(text, "TO:")
        if rest is None:
            return replies.RCPT_SYNTAX
        path = _path(rest, smtputf8=current.smtputf8)
        if isinstance(path, AddressFault):
            unicode = path is AddressFault.NEEDS_SMTPUTF8
            return replies.RECIPIENT_NEEDS_SMTPUTF8 if unicode else replies.BAD_RECIPIENT
        if not path.address:
            return replies.NULL_RECIPIENT
        if path.parameters:
            return replies.UNKNOWN_PARAMETER
        if len(current.recipients) >= self._max_recipients:
            return replies.TOO_MANY_RECIPIENTS
        return path.address

    def on_data(self, client: Client, current: Transaction | None) -> Reply | None:
        """Say why DATA cannot begin, or nothing."""
        if not client.helo:
            return replies.SEND_HELO_FIRST
        if current is None or not current.recipients:
            return replies.NEED_RCPT
        return None

    def on_header(self, section: HeaderSection) -> Reply | None:
        """Say why a message is not taken for its header section, or nothing."""
        return replies.LOOP if section.received_count >= MAX_RECEIVED_FIELDS else None


def _behind_keyword(text: str, keyword: str) -> str | None:
    if text[: len(keyword)].upper() != keyword:
        return None
    return text[len(keyword) :].lstrip(" ")  # many clients put a space there


def _path(text: str, *, smtputf8: bool) -> Path | AddressFault:
    try:
        return parse_path(text, smtputf8=smtputf8)
    except AddressError as error:
        return error.fault


def _asks_smtputf8(text: str) -> bool:
    return "SMTPUTF8" in text.upper().rpartition(">")[2].split()


def _none(parameters: str) -> Reply | Transaction:
    """HELO offered no extensions, so there are no parameters."""
    return replies.UNKNOWN_PARAMETER if parameters else Transaction("")


def _mail_parameters(text: str) -> Reply | Transaction:
    """Read SIZE (RFC 1870), BODY (RFC 6152) and SMTPUTF8 (RFC 6531)."""
    transaction = Transaction("")
    for parameter in text.split():
        name, has_value, value = parameter.partition("=")
        match name.upper():
            case "SIZE":
                if not (value.isascii() and value.isdigit() and len(value) <= 20):  # noqa: PLR2004 — RFC 1870: 20 digits
                    return replies.BAD_SIZE
                transaction.declared_bytes = int(value)
            case "BODY":
                if value.upper() not in {"7BIT", "8BITMIME"}:
                    return replies.BAD_BODY
                transaction.body_8bitmime = value.upper() == "8BITMIME"
            case "SMTPUTF8":
                if has_value:
                    return replies.NO_ENVELOPE_PARAMETER_VALUE
                transaction.smtputf8 = True
            case "AUTH":
                pass  # RFC 4954 section 5: taken, and not passed on to a next hop we do not trust
            case _:
                return replies.UNKNOWN_PARAMETER
    return transaction
