"""What people see of a running relay: a few whole lines, at once, and nothing that can stop it.

A terminal that has gone away is no reason to stop taking mail.
"""

from __future__ import annotations

import contextlib
import sys


def say(*lines: str) -> None:
    """Print lines on standard output."""
    with contextlib.suppress(OSError, ValueError):
        print("\n".join(lines), flush=True)


def complain(*lines: str) -> None:
    """Print lines on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print("\n".join(lines), file=sys.stderr, flush=True)
