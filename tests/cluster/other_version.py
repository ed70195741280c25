"""Images of another version of the code, to upgrade to and from.

`MAILRELAY_TEST_OTHER=COMMIT` builds them from a commit of this repository. Otherwise it is this
tree with another version number in each package: few octets differ, but images, processes and what
they say of themselves do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.compose.images import TARGETS, ImageError, build_images
from tests.support.command import ROOT

COMMIT: Final = "MAILRELAY_TEST_OTHER"
TAG: Final = "next"
VERSION: Final = "0.0.1"  # no other is likely to have it
_PARTS: Final = ("Dockerfile", "pyproject.toml", "lib", "services", "cli", "operator")
_LOCKS: Final = "requirements*.lock"
_SECONDS: Final = 60.0


def names(targets: Iterable[str]) -> list[str]:
    """What the engine calls them."""
    return [f"{TARGETS[target]}:{TAG}" for target in targets]


def build(targets: Iterable[str]) -> list[str]:
    """Build them; returns a line that says how long it took. Raises ImageError."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mailrelay-other-") as folder:
        commit = os.environ.get(COMMIT)
        if commit:
            _take_commit(commit, Path(folder))
        else:
            _take_tree(Path(folder))
        build_images(targets, Path(folder), TAG)
    what = commit or f"version {VERSION}"
    return [f"images of {what}, to upgrade to, in {time.monotonic() - began:.0f} s"]


def _take_commit(commit: str, folder: Path) -> None:
    archive = folder / "tree.tar"
    asked = ["git", "archive", f"--output={archive}", commit]
    done = subprocess.run(
        asked, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        raise ImageError(f"{COMMIT}={commit}: {done.stderr}")
    shutil.unpack_archive(archive, folder, filter="data")
    archive.unlink()


def _take_tree(folder: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for part in (*(ROOT / name for name in _PARTS), *ROOT.glob(_LOCKS)):
        if part.is_dir():
            shutil.copytree(part, folder / part.name, ignore=ignore)
        else:
            shutil.copy2(part, folder / part.name)
    for project in folder.glob("**/pyproject.toml"):
        lines = project.read_text().splitlines(keepends=True)
        changed = [
            f'version = "{VERSION}"\n' if line.startswith("version = ") else line for line in lines
        ]
        project.write_text("".join(changed))
