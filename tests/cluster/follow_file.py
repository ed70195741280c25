"""Print a file as it grows, from an offset on: `python -m tests.cluster.follow_file PATH OFFSET`.

It ends when whoever reads it does. A file that is not there yet is waited for.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

_LOOK_SECONDS: Final = 0.2
_PART: Final = 1 << 20


def main(path: Path, offset: int) -> None:
    """Print what comes."""
    while not path.exists():
        time.sleep(_LOOK_SECONDS)  # how often it looks: nothing tells of a new file here
    with path.open("rb") as file:
        file.seek(offset)
        while True:
            part = file.read(_PART)
            if part:
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
            else:
                time.sleep(_LOOK_SECONDS)  # the same; who started it ends it


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
