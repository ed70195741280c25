"""A folder that a pod and the tests both see.

On a node of the tests' own it is one folder of this machine. Somewhere else it is the pod's: what
the tests put there goes by `kubectl exec`, and what the pod writes is copied as it grows.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests.support.kubernetes.client import Manifest
from tests.support.wait import wait_until

USER: Final = 10_001  # the tools image's own
MOUNT: Final = "/shared"
NAME: Final = "shared"
_AGAIN_SECONDS: Final = 1.0  # after a connection to the pod broke
_SOON_SECONDS: Final = 120.0

Kubectl = Callable[..., Awaitable[str]]


class Shared(ABC):
    """`record` is the file that the pod writes; the tests read it by `path`."""

    def __init__(self, folder: Path, record: str) -> None:
        self._folder = folder
        self._record = record
        _make(folder)

    @property
    def path(self) -> Path:
        """The record, or as much of it as has come; it may not be there yet."""
        return self._folder / self._record

    @abstractmethod
    def volume(self) -> Manifest:
        """The pod's volume."""

    @abstractmethod
    async def began(self, pod: str) -> None:
        """Take up the connection to a pod, `pod/name` or what has one, that has been made."""

    @abstractmethod
    async def put(self, name: str, text: str) -> None:
        """Write a file for the pod, whole."""

    @abstractmethod
    def end(self) -> None:
        """Give the connection up."""


class FolderOfNode(Shared):
    """A folder of this machine, which the pod's user owns."""

    def __init__(self, folder: Path, record: str) -> None:
        super().__init__(folder, record)
        shutil.chown(folder, USER, USER)

    def volume(self) -> Manifest:
        """The folder itself."""
        return {"name": NAME, "hostPath": {"path": str(self._folder)}}

    async def began(self, pod: str) -> None:
        """There is no connection."""

    async def put(self, name: str, text: str) -> None:
        """Write beside it, and rename."""
        new = self._folder / f"{name}.new"
        new.write_text(text)
        shutil.chown(new, USER, USER)
        new.rename(self._folder / name)

    def end(self) -> None:
        """There is no connection."""


class FolderOfPod(Shared):
    """A pod's own folder, reached by kubectl."""

    def __init__(
        self, folder: Path, record: str, kubectl: Kubectl, command: tuple[str, ...]
    ) -> None:
        super().__init__(folder, record)
        self._kubectl = kubectl
        self._command = command  # kubectl with its cluster and namespace
        self._pod = ""
        self._copying: subprocess.Popen[bytes] | None = None
        self._is_over = threading.Event()

    def volume(self) -> Manifest:
        """A folder that lives as long as the pod."""
        return {"name": NAME, "emptyDir": {}}

    async def began(self, pod: str) -> None:
        """Copy what it writes from now on."""
        self._pod = pod

        async def answers() -> bool:
            await self._run("python", "--version")
            return True

        await wait_until(answers, _SOON_SECONDS, f"{pod} runs", 0.5)
        threading.Thread(target=self._copy, daemon=True).start()

    async def put(self, name: str, text: str) -> None:
        """Hand it to a process beside the pod's own."""
        await self._run("python", "-m", "tests.cluster.put_file", f"{MOUNT}/{name}", stdin=text)

    def end(self) -> None:
        """End the copying."""
        self._is_over.set()
        if self._copying is not None:
            self._copying.kill()

    async def _run(self, *command: str, stdin: str = "") -> str:
        return await self._kubectl("exec", "--stdin", self._pod, "--", *command, stdin=stdin)

    def _copy(self) -> None:
        """Append what comes; go on behind it when the connection breaks."""
        with self.path.open("ab") as target:
            while not self._is_over.is_set():
                offset = self.path.stat().st_size
                program = ("python", "-m", "tests.cluster.follow_file")
                self._copying = subprocess.Popen(
                    [
                        *(*self._command, "exec", self._pod, "--"),
                        *(*program, f"{MOUNT}/{self._record}", str(offset)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=target,
                    stderr=subprocess.DEVNULL,
                )
                if self._is_over.is_set():
                    self._copying.kill()
                self._copying.wait()
                self._is_over.wait(_AGAIN_SECONDS)


def _make(folder: Path) -> None:
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
