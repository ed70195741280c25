"""Notice that a file changed: certificates, users, the configuration.

Looked at by polling, because what is watched may be a symbolic link that is swapped (Kubernetes
mounts Secrets that way), a bind mount, or a file that an editor replaces: none of these is seen
reliably by the kernel's notices on the file itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

INTERVAL_SECONDS = 1.0

_Look = tuple[int, ...] | None


async def watch_files(
    paths: Callable[[], Iterable[Path]],
    changed: Callable[[], Awaitable[None]],
    *,
    interval_seconds: float = INTERVAL_SECONDS,
) -> None:
    """Call `changed` each time that one of the files is another than before, until cancelled.

    `paths` is asked at each look, so what is watched may change. A file that goes away counts as a
    change, and so does one that comes back. `changed` is called once the files have stood still for
    one look, so that a half written one is not read.
    """
    known = _look(paths())
    unsettled = False
    while True:
        await asyncio.sleep(interval_seconds)
        found = _look(paths())
        if found != known:
            known, unsettled = found, True
        elif unsettled:
            unsettled = False
            await changed()


def _look(paths: Iterable[Path]) -> dict[Path, _Look]:
    return {path: _identity(path) for path in paths}


def _identity(path: Path) -> _Look:
    try:
        found = path.stat()
    except OSError:
        return None
    # Whose it is and who may read it too: a file that was refused for that is mended by it alone.
    owner = (found.st_uid, found.st_gid, found.st_mode)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, *owner
