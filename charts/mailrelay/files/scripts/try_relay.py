"""What `helm test` runs: submit a message to the test's relay, and wait for it at a sink.

The sink is an SMTP server in this process, which the test's relay has as its only smart host. The
message goes the way that a program's would: STARTTLS with the generated authority, AUTH with the
generated user. Exit codes: 0 delivered, 1 not in time; the last line says which step it stopped at.
"""

from __future__ import annotations

import os
import secrets
import smtplib
import ssl
import sys
import threading
import time
from email.message import EmailMessage
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

PAUSE_SECONDS = 1.0


class Sink:
    """Takes every message, and tells of the one that is waited for."""

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()
        self.has_come = threading.Event()

    async def handle_DATA(  # noqa: N802 — aiosmtpd finds it by this name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Answer a message."""
        if self._mark in (envelope.original_content or b""):
            self.has_come.set()
        return "250 2.0.0 taken"


def main() -> int:
    """Run the test."""
    limit = float(os.environ["LIMIT_SECONDS"])
    began = time.monotonic()

    def left() -> float:
        return began + limit - time.monotonic()

    mark = f"mailrelay-test-{secrets.token_hex(8)}"
    sink = Sink(mark)
    controller = Controller(
        sink, hostname=os.environ["SINK_ADDRESS"], port=int(os.environ["SINK_PORT"])
    )
    controller.start()
    try:
        step = "submit"
        while (refused := submit(mark)) and left() > 0:
            print(f"{time.monotonic() - began:4.0f} s  not taken yet: {refused}", flush=True)
            time.sleep(PAUSE_SECONDS)
        if not refused:
            print(f"{time.monotonic() - began:4.0f} s  the relay took the message", flush=True)
            step = "deliver"
            if sink.has_come.wait(max(0.0, left())):
                print(f"{time.monotonic() - began:4.0f} s  the sink has the message", flush=True)
                return 0
        words = {
            "submit": f"the relay took no message within {limit:.0f} s: {refused}",
            "deliver": f"the relay took the message, and did not deliver it within {limit:.0f} s",
        }
        print(f"FAILED: {words[step]}", file=sys.stderr, flush=True)
        return 1
    finally:
        controller.stop()


def submit(mark: str) -> str:
    """Submit the message; return why it was not taken, or nothing."""
    message = EmailMessage()
    message["From"] = "test@mailrelay.example"
    message["To"] = "sink@mailrelay.example"
    message["Subject"] = mark
    message.set_content("A message of `helm test`.\n")
    user, authority = Path(os.environ["USER_FOLDER"]), Path(os.environ["CA_FILE"])
    try:
        context = ssl.create_default_context(cafile=str(authority))
        host, port = os.environ["RELAY_HOST"], int(os.environ["RELAY_PORT"])
        with smtplib.SMTP(host, port, timeout=30) as client:
            client.starttls(context=context)
            client.login((user / "username").read_text(), (user / "password").read_text())
            client.send_message(message)
    except (OSError, smtplib.SMTPException) as error:  # not there yet, or no
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
