"""`mailrelay limits`: how far the running relay's rate limits are used up."""

from __future__ import annotations

import http.client
import json
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK
from mailrelay_cli.console import complain, say
from mailrelay_cli.data_folder import DataFolder
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.monitor_client import token_headers
from mailrelay_cli.run_file import read_run_file

_HTTP_SECONDS = 30.0
_HEAD = ("LIMIT", "SENDER", "USED", "OF", "RESETS AT")


@dataclass(frozen=True, slots=True)
class LimitsOptions:
    """What the command line says."""

    sender: str | None  # empty for `<>`
    rows: int
    data_dir: Path


def show_limits(options: LimitsOptions) -> int:
    """Print a line for each counter; the exit code. Raises BadInputError."""
    folder = DataFolder(options.data_dir.absolute())
    running = read_run_file(folder.run_file)
    if running is None:
        raise BadInputError(f"no relay is running on data folder {folder.path}")
    if running.http is None:
        complain("the limits cannot be told: enableHealthCheck is false")
        return EXIT_FAILED
    query = {"limit": str(options.rows)}
    if options.sender is not None:
        query["sender"] = options.sender.removeprefix("<").removesuffix(">")
    url = f"{running.http}api/limits?{urllib.parse.urlencode(query)}"
    try:
        asked = urllib.request.Request(url, headers=token_headers(running))  # noqa: S310 — ours
        with urllib.request.urlopen(asked, timeout=_HTTP_SECONDS) as answer:  # noqa: S310 — ours
            report: dict[str, Any] = json.load(answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        complain(f"the relay does not tell: {error}")
        return EXIT_FAILED
    if not report["enabled"]:
        say("rateLimits.enabled is false: nothing is limited or counted")
        return EXIT_OK
    say(*_table([_HEAD, *(_row(counter) for counter in report["counters"])]))
    if not report["complete"]:
        complain("there are more senders: ask for one with --sender, or for more with --rows")
    return EXIT_OK


def _row(counter: dict[str, Any]) -> tuple[str, ...]:
    sender = counter["sender"]
    shown = "everybody" if sender is None else sender or "<>"
    limit = str(counter["limit"]).replace("_", " ")
    return limit, shown, str(counter["used"]), str(counter["most"]), counter["resets_at"]


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
