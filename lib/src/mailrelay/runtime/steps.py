"""Marks the steps of the queue's protocol, so that tests can end the process right after each.

Nothing in the relay listens: no option, variable or file turns this on. The code that kills lives
in the tests, which start a service with a listener of theirs (docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[str], None] | None = None


def passed(step: str) -> None:
    """Say that a step is done; `step` is `<what>.<done>`, such as `settle.deferred_stored`."""
    if _listener is not None:
        _listener(step)


def listen(listener: Callable[[str], None] | None) -> None:
    """Have `listener` called with each step that is passed; None ends that. For tests."""
    global _listener  # noqa: PLW0603 — one process has one life, and so one listener
    _listener = listener
