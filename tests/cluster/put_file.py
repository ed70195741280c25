"""Write standard input to a file, whole or not at all: `python -m tests.cluster.put_file PATH`."""

from __future__ import annotations

import sys
from pathlib import Path


def main(path: Path) -> None:
    """Write beside it, and rename."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(sys.stdin.buffer.read())
    new.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
