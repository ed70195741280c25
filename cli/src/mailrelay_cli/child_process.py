"""One child: started so that it cannot outlive the supervisor, its lines taken, its end known.

It gets a session of its own, so that Ctrl-C reaches only the supervisor, which stops its children
in order. When the supervisor dies, however it died, the kernel kills the child (Linux); a lifeline
pipe tells our own services the same anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from mailrelay.runtime.lifecycle import READY_FD

_READ_BYTES = 65_536
_MAX_LINE_BYTES = 1024 * 1024  # longer ones are cut: no unbounded buffer
_PIPE_BYTES = 1024 * 1024  # what a child may write while the supervisor's disk hesitates
_TAIL_LINES = 20
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

# Takes whole lines, each with its line feed, and whether they came from standard error.
LineSink = Callable[[bytes, bool], None]


class Lines:
    """Reads whole lines from a pipe as they come and keeps the last ones."""

    def __init__(self, fd: int, take: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._take = take
        self._rest = b""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def close(self) -> None:
        """Take what is there, waiting for nothing, and close the pipe."""
        while self._fd >= 0 and self._read():
            pass
        self._end()

    def _read(self) -> bool:
        try:
            read = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            read = b""
        if not read:
            self._end()
            return False
        whole, line_feed, rest = (self._rest + read).rpartition(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            whole, line_feed, rest = whole + line_feed + rest, b"\n", b""
        self._rest = rest
        if line_feed:
            self._hand_on(whole + line_feed)
        return True

    def _end(self) -> None:
        if self._fd < 0:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self._rest:
            self._hand_on(self._rest + b"\n")
            self._rest = b""

    def _hand_on(self, lines: bytes) -> None:
        last = lines[-_READ_BYTES:].splitlines()[-_TAIL_LINES:]
        self.tail.extend(line.decode(errors="replace") for line in last)
        self._take(lines)


class ChildProcess:
    """A running child; make one inside a running event loop. Raises OSError."""

    def __init__(
        self, argv: tuple[str, ...], env: Mapping[str, str], fds: tuple[int, ...], sink: LineSink
    ) -> None:
        loop = asyncio.get_running_loop()
        self.told_ready: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()  # negative: killed by a signal
        self._ready_fd, ready_end = os.pipe()
        try:
            self._popen = subprocess.Popen(  # noqa: S603 — the supervisor's own commands
                argv,
                env={**env, READY_FD: str(ready_end)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(*fds, ready_end),
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 — see there
            )
        except BaseException:
            os.close(self._ready_fd)
            raise
        finally:
            os.close(ready_end)
        self.pid = self._popen.pid
        self._stdout = Lines(_taken(self._popen.stdout), lambda lines: sink(lines, False))  # noqa: FBT003 — is_error
        self._stderr = Lines(_taken(self._popen.stderr), lambda lines: sink(lines, True))  # noqa: FBT003 — is_error
        os.set_blocking(self._ready_fd, False)
        loop.add_reader(self._ready_fd, self._read_ready)
        self._watch(loop)

    @property
    def tail(self) -> list[str]:
        """What it said last: its errors, or if there are none its lines."""
        return list(self._stderr.tail or self._stdout.tail)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, and whatever it started in its process group."""
        if not self.exited.done():
            _kill_group(self.pid)

    def _read_ready(self) -> None:
        try:
            said = os.read(self._ready_fd, _READ_BYTES)
        except BlockingIOError:
            return
        if said and not self.told_ready.done():
            self.told_ready.set_result(None)
        if not said:
            self._close_ready()

    def _close_ready(self) -> None:
        if self._ready_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._ready_fd)
            os.close(self._ready_fd)
            self._ready_fd = -1

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have `_reap` called when it ends: no signal handler, no polling."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or a container that forbids it
            waiting = loop.run_in_executor(None, self._popen.wait)
            waiting.add_done_callback(lambda _: self._reap())
            return

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self._reap()

        loop.add_reader(pidfd, ended)

    def _reap(self) -> None:
        if self._popen.returncode is None:
            _kill_group(self.pid)  # before it is reaped: until then nobody else can have its id
        code = self._popen.wait()
        if self._ready_fd >= 0:
            self._read_ready()  # it may have told and died in one breath
        self._close_ready()
        self._stdout.close()
        self._stderr.close()
        self.exited.set_result(code)


def file_tail(path: Path) -> list[str]:
    """Return the last lines of a file, as far as it can be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _READ_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    return [line.decode(errors="replace") for line in lines[-_TAIL_LINES:]]


def exit_words(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _taken(pipe: object) -> int:
    """Take a pipe's descriptor out of the file object that would close it."""
    fd = os.dup(pipe.fileno())  # type: ignore[attr-defined]
    pipe.close()  # type: ignore[attr-defined]
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a limit of this user's on pipes
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return fd


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _die_with(parent: int) -> Callable[[], None]:
    """Return what runs between fork and exec: no imports, no allocation worth the name.

    The signal comes when the *thread* that forked ends; the supervisor forks in its main thread.
    """

    def arrange() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return arrange
