"""Put on PYTHONPATH by a test: whoever tells a next hop of `poison@…` is killed by it.

Python imports this module when a process starts; it does nothing but in a sender and in the process
of its quarantine. It stands for what a real poison does: a crash in a library, or memory used up.
"""

import os
import signal
import sys

if any(word.startswith("mailrelay_sender") for word in sys.orig_argv):
    import asyncio
    from collections.abc import Sequence

    from mailrelay.mail.reply import Reply
    from mailrelay_sender import suspicion
    from mailrelay_sender.dialogue import Dialogue

    suspicion.SUSPICIOUS_DELIVERIES = 3  # 10 deaths take a minute

    _tell_nowait = Dialogue.tell_nowait

    def tell_nowait(
        self: Dialogue, commands: Sequence[tuple[bytes, ...]]
    ) -> list[asyncio.Future[Reply]]:
        if any(b"poison@" in word for words in commands for word in words):
            os.kill(os.getpid(), signal.SIGKILL)
        return _tell_nowait(self, commands)

    Dialogue.tell_nowait = tell_nowait  # type: ignore[method-assign]
