"""`python -m tools.reference`: write every page that differs, and say which."""

from __future__ import annotations

import sys

from tools.reference.pages import ROOT, pages


def main() -> int:
    """Write the pages; returns the exit code."""
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
