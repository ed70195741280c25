"""Whether mail flows: it is taken from clients, and the upstream hears of recipients."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from tests.support.ledger import Ledger
from tests.support.wait import wait_until

LIMIT_SECONDS = 30.0
_ECHO_SECONDS = 0.3  # what was under way before is written down by then


class Flow:
    """Looks at both books from outside."""

    def __init__(self, ledger: Ledger, record: Path) -> None:
        self._ledger = ledger
        self._record = record

    async def wait(self) -> None:
        """Wait until mail has come in and gone out since now, `LIMIT_SECONDS` at most.

        A trouble of the upstream may keep it from that; then the plan goes on all the same.
        """
        since = time.time() + _ECHO_SECONDS
        size: int | None = None

        def flows() -> bool:
            nonlocal size
            if time.time() < since:
                return False
            if size is None:
                size = self._record.stat().st_size
            taken = any(entry.time >= since for entry in self._ledger.accepted_lately())
            return taken and self._record.stat().st_size > size

        with contextlib.suppress(AssertionError):
            await wait_until(flows, LIMIT_SECONDS, "mail flows", interval=0.05)
