"""What the command `mailrelay` calls first: a health check is asked every few seconds, all day.

So it is answered without reading in what the other commands need, which takes twice as long as
the check. Everything else is `main`'s.
"""

from __future__ import annotations

import sys

from mailrelay_cli.console import complain
from mailrelay_cli.errors import BadInputError


def main() -> None:
    """Run the command line and exit."""
    if sys.argv[1:] == ["health"]:
        sys.exit(_health())
    from mailrelay_cli.main import main as any_command  # noqa: PLC0415 — see above

    any_command()


def _health() -> int:
    from pathlib import Path  # noqa: PLC0415 — see above

    from mailrelay.runtime.lifecycle import EXIT_BAD_INPUT  # noqa: PLC0415 — see above
    from mailrelay_cli.health import health  # noqa: PLC0415 — see above

    try:
        return health(Path("data"))
    except BadInputError as error:
        complain(*error.faults)
        return EXIT_BAD_INPUT
