"""docs/guide/one-server.md: the page, and the repository that its reader has."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.compose.docker import do
from tests.support.command import ROOT
from tests.support.pages import GUIDES

PAGE = GUIDES / "one-server.md"
SYSTEMD = "Without containers: systemd"  # a heading, whose part has a test of its own
_GIT = ("git", "-c", "user.name=MailRelay's tests", "-c", "user.email=tests@example.org")


async def publish(folder: Path) -> Path:
    """Make a repository of the files that are tested, those that are not committed too.

    Returns its path; a clone of it is what the page calls a checkout.
    """
    listed = await do(
        *_GIT, "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"
    )
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, folder / name
        if source.exists():  # it may be removed and not yet committed
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    await do(*_GIT, "-C", str(folder), "init", "--quiet", "--initial-branch", "main")
    await commit(folder, "What is tested")
    return folder


async def commit(repository: Path, message: str) -> None:
    """Commit everything that lies there."""
    await do(*_GIT, "-C", str(repository), "add", "--all", "--force")
    await do(*_GIT, "-C", str(repository), "commit", "--quiet", "--message", message)
