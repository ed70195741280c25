"""Speak SMTP to clients: aiosmtpd's protocol with the relay's own commands. Decides nothing.

The only importer of aiosmtpd, which keeps the command loop, EHLO and HELO. A session is built in
layers, each of which adds commands to the one before:

1. `protocol` is a connection: greeting, replies with their enhanced codes, errors, the end.
2. `starttls` puts it under TLS, at once or when asked.
3. `auth` finds out who the client is.
4. `session` takes mail: MAIL, RCPT, DATA; it asks `mailrelay_ingress.policy` and does what it says.
5. `receive` reads the content behind DATA.
6. `sockets` has the listening sockets and all sessions on them; `parts` is what they share.
"""

from mailrelay_ingress.listener.parts import ListenerParts
from mailrelay_ingress.listener.session import SmtpSession
from mailrelay_ingress.listener.sockets import Listener

__all__ = ["Listener", "ListenerParts", "SmtpSession"]
