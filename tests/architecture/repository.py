"""What the tests here look at."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = (
    ROOT / "lib" / "src",
    *(ROOT / "services" / name / "src" for name in ("ingress", "sender", "monitor")),
    ROOT / "cli" / "src",
    ROOT / "operator" / "src",
)


def tracked_files() -> list[Path]:
    """All files that are in the repository or would be: nothing that .gitignore names."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def documents() -> list[Path]:
    """The Markdown files."""
    return [path for path in tracked_files() if path.suffix == ".md"]


def packages() -> list[Path]:
    """The folders of the relay's own packages, and of the tools."""
    found = [init.parent for source in SOURCES for init in sorted(source.rglob("__init__.py"))]
    return found + [init.parent for init in sorted((ROOT / "tools").rglob("__init__.py"))]
