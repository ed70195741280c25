"""Where `security.logAllEmails` keeps content: `emails/<day>/<queue id>.eml` in the data folder.

The content as it was stored, the relay's own fields on top, dots no longer stuffed; beside each a
`.json` with the envelope. Days are UTC days of acceptance. Written by ingress, thinned out by the
monitor (docs/decisions/0019).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailrelay.mail.ids import QueueId, accepted_seconds, is_queue_id

# The images set it to the guide's volume. A link in the data folder would not do: an engine mounts
# two volumes in any order, and one may hide what the other was mounted on.
FOLDER_VARIABLE = "MAILRELAY_EMAILS_DIR"
CONTENT_SUFFIX = ".eml"
ENVELOPE_SUFFIX = ".json"
FREE_FLOOR_BYTES = 256 * 1024 * 1024  # the queue needs what is left of the disk more
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class KeptFiles:
    """One message's two files, whether they are there or not."""

    content: Path
    envelope: Path


def emails_folder(data_dir: Path) -> Path:
    """Return the folder that has a folder a day: in the data folder, unless an image says where."""
    told = os.environ.get(FOLDER_VARIABLE)
    return Path(told) if told else data_dir / "emails"


def day_of(queue_id: QueueId) -> str:
    """Return the day of acceptance, which a queue id begins with."""
    return datetime.fromtimestamp(accepted_seconds(queue_id), UTC).strftime("%Y-%m-%d")


def kept_files(data_dir: Path, queue_id: QueueId) -> KeptFiles:
    """Return where a message's files are, if they are kept."""
    base = emails_folder(data_dir) / day_of(queue_id) / queue_id
    return KeptFiles(base.with_suffix(CONTENT_SUFFIX), base.with_suffix(ENVELOPE_SUFFIX))


def days(data_dir: Path) -> list[str]:
    """Return the days that something is kept of, the oldest first."""
    try:
        found = [each.name for each in emails_folder(data_dir).iterdir() if is_day(each.name)]
    except OSError:
        return []
    return sorted(found)


def is_day(text: str) -> bool:
    """Tell whether `text` is a date as folders are named."""
    if _DAY.fullmatch(text) is None:
        return False
    try:
        datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return False
    return True


def kept_of_day(data_dir: Path, day: str) -> Iterator[QueueId]:
    """Yield the queue ids whose content is kept of a day, in the order of acceptance."""
    try:
        names = sorted(each.name for each in (emails_folder(data_dir) / day).iterdir())
    except OSError:
        return
    for name in names:
        if name.endswith(CONTENT_SUFFIX) and is_queue_id(name.removesuffix(CONTENT_SUFFIX)):
            yield QueueId(name.removesuffix(CONTENT_SUFFIX))
