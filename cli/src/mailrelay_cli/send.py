"""`mailrelay send`: hand a test message to the running relay and tell what became of it."""

from __future__ import annotations

import email.policy
import email.utils
import http.client
import json
import re
import smtplib
import socket
import ssl
import time
import urllib.request
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from mailrelay.config.model import RelayConfig
from mailrelay.mail.address import AddressError, parse_path
from mailrelay.mail.disposition import Disposition
from mailrelay.readiness import reachable
from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK
from mailrelay_cli.checked_config import checked_config
from mailrelay_cli.console import complain, say
from mailrelay_cli.data_folder import DataFolder
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.first_secrets import USER, first_password
from mailrelay_cli.monitor_client import token_headers
from mailrelay_cli.run_file import RunFile, read_run_file

_DEFAULT_SENDER = "mailrelay-test@example.com"
_DEFAULT_RECIPIENT = "you@example.com"
_QUEUED_AS = re.compile(r"queued as (\S+)")
_POLL_SECONDS = 0.1
_HTTP_SECONDS = 5.0
_GOOD = frozenset({Disposition.SENT.value, Disposition.CAPTURED.value})


@dataclass(frozen=True, slots=True)
class SendOptions:
    """What the command line says."""

    to: list[str]
    sender: str | None
    subject: str
    config_file: Path | None
    data_dir: Path
    timeout_seconds: float


class _RefusedError(Exception):
    """The relay did not take the message."""


def send(options: SendOptions) -> int:
    """Hand the message over and wait; the exit code. Raises BadInputError."""
    config = checked_config(options.config_file)
    folder = DataFolder(options.data_dir.absolute())
    running = read_run_file(folder.run_file)
    if running is None:
        raise BadInputError(f"no relay is running on data folder {folder.path}")
    if running.upstream is not None and not options.to:
        raise BadInputError(
            f"this relay forwards mail to {running.upstream}: say who is to get it with --to"
        )
    sender = _checked("--from", options.sender or _DEFAULT_SENDER)
    recipients = [_checked("--to", address) for address in options.to or [_DEFAULT_RECIPIENT]]
    deadline = time.monotonic() + options.timeout_seconds
    try:
        reply = _hand_over(running, config, sender, recipients, options)
    except ConnectionRefusedError as error:
        raise BadInputError(
            f"no relay is running on data folder {folder.path} "
            f"({running.smtp[0]} refuses connections)"
        ) from error
    except (_RefusedError, smtplib.SMTPException, OSError) as error:
        complain(f"not accepted: {error}")
        return EXIT_FAILED
    found = _QUEUED_AS.search(reply)
    if found is None:
        complain(f"accepted, but the answer names no queue id: {reply}")
        return EXIT_FAILED
    say(f"queued as {found[1]}")
    return _tell_outcome(running, found[1], recipients, deadline)


def _checked(option: str, address: str) -> str:
    if not any(ord(character) < ord(" ") for character in address):
        try:
            parsed = parse_path(f"<{address}>", smtputf8=True)
        except AddressError as error:
            raise BadInputError(f"{option}: {address!r} is no address ({error})") from error
        if parsed.address == address:
            return address
    raise BadInputError(f"{option}: {address!r} is no address")


def _hand_over(
    running: RunFile,
    config: RelayConfig,
    sender: str,
    recipients: list[str],
    options: SendOptions,
) -> str:
    """Speak SMTP up to the answer after DATA and return it."""
    host, _, port = running.smtp[0].rpartition(":")
    with smtplib.SMTP(
        reachable(host.strip("[]")), int(port), timeout=options.timeout_seconds
    ) as client:
        client.ehlo_or_helo_if_needed()
        if client.has_extn("starttls"):
            # To our own machine's loopback, whose certificate is for the outside name.
            client.starttls(context=_unverified())
            client.ehlo()
        if config.default_username:
            client.login(config.default_username, config.default_password.get_secret_value())
        elif (password := first_password()) is not None:
            client.login(USER, password)
        needs_utf8 = not all(address.isascii() for address in (sender, *recipients))
        mail_options = ["SMTPUTF8", "BODY=8BITMIME"] if needs_utf8 else []
        _expect(client.docmd("MAIL", f"FROM:<{sender}> {' '.join(mail_options)}".strip()))
        for recipient in recipients:
            _expect(client.docmd("RCPT", f"TO:<{recipient}>"), recipient)
        message = _message(sender, recipients, options.subject)
        policy = email.policy.SMTPUTF8 if needs_utf8 else email.policy.SMTP
        return _expect(client.data(message.as_bytes(policy=policy)))


def _message(sender: str, recipients: list[str], subject: str) -> EmailMessage:
    message = EmailMessage()
    try:
        message["From"] = sender
        message["To"] = ", ".join(recipients)
        message["Subject"] = subject
    except ValueError as error:  # a line feed in the subject
        raise BadInputError(f"--subject: {error}") from error
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid(domain=socket.gethostname())
    message.set_content("A test message from `mailrelay send`.\n")
    return message


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _expect(answer: tuple[int, bytes], about: str = "") -> str:
    code, text = answer
    said = f"{code} {text.decode(errors='replace')}"
    if not 200 <= code < 400:  # noqa: PLR2004 — positive replies, RFC 5321 section 4.2.1
        raise _RefusedError(f"{about}: {said}" if about else said)
    return said


def _tell_outcome(running: RunFile, queue_id: str, recipients: list[str], deadline: float) -> int:
    if running.http is None:
        complain("what became of it cannot be told: enableHealthCheck is false")
        return EXIT_FAILED
    asked = urllib.request.Request(  # noqa: S310 — ours
        f"{running.http}api/messages/{queue_id}", headers=token_headers(running)
    )
    outcomes: list[dict[str, Any]] = []
    while not (len(outcomes) == len(recipients) and all(map(_is_final, outcomes))):
        if time.monotonic() >= deadline:
            return _tell_open(outcomes)
        time.sleep(_POLL_SECONDS)
        outcomes = _asked(asked) or outcomes
    for outcome in outcomes:
        say(_line(outcome))
    return EXIT_OK if all(each["state"] in _GOOD for each in outcomes) else EXIT_FAILED


def _is_final(outcome: dict[str, Any]) -> bool:
    try:
        return Disposition(outcome["state"]).is_final
    except ValueError:  # queued: not tried yet
        return False


def _tell_open(outcomes: list[dict[str, Any]]) -> int:
    if not outcomes:
        complain("not known yet what became of it")
    for outcome in outcomes:
        is_deferred = outcome["state"] == Disposition.DEFERRED.value
        if is_deferred:
            complain(f"{outcome['address']}: still deferred: {outcome.get('reply') or 'no reply'}")
        else:
            complain(_line(outcome))
    return EXIT_FAILED


def _line(outcome: dict[str, Any]) -> str:
    reply = outcome.get("reply")
    return f"{outcome['address']}: {outcome['state']}" + (f" ({reply})" if reply else "")


def _asked(question: urllib.request.Request) -> list[dict[str, Any]]:
    """Ask the monitor for the recipients; none while it does not know them or is away."""
    try:
        with urllib.request.urlopen(question, timeout=_HTTP_SECONDS) as answer:  # noqa: S310 — ours
            recipients: list[dict[str, Any]] = json.load(answer)["recipients"]
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return []
    return recipients
