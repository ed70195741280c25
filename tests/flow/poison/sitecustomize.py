"""Put on PYTHONPATH by a test: whoever tells a next hop of `poison@…` is killed by it.

Python imports this module when a process starts; it does nothing but in a sender and in the process
of its quarantine. It stands for what a real poison does: a crash in a library, or memory used up.
"""

import os
import signal
import sys

if any(word.startswith("mailrelay_sender") for word in sys.orig_argv):
    from mailrelay.mail.reply import Reply
    from mailrelay_sender import suspicion
    from mailrelay_sender.connection import HopConnection

    suspicion.SUSPICIOUS_DELIVERIES = 3  # 10 deaths take a minute

    _command = HopConnection.command

    async def command(self: HopConnection, *words: bytes) -> Reply:
        if b"poison@" in b" ".join(words):
            os.kill(os.getpid(), signal.SIGKILL)
        return await _command(self, *words)

    HopConnection.command = command  # type: ignore[method-assign]
