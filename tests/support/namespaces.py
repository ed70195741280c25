"""Run a command as the first process of namespaces of its own; as root.

Its processes, its mounts, its network and its firewall's rules are not the machine's, and the
kernel ends all of them with that first process, however that ended. The way out of the network is
slirp4netns, a program and no route. What is written lies in a scratch folder, and cgroups bear its
name; both are removed at the end, or by the next run when this one was killed.

`run_in_namespaces` is for outside. It starts a module again, which begins with `prepare` inside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

_POLL_SECONDS = 0.1
_SCRATCH = Path("/var/tmp")  # noqa: S108 — /tmp may be memory; the folders in it are private
_NAMESERVER = "10.0.2.3"  # slirp4netns answers there, whatever the machine's own is
_CGROUPS = Path("/sys/fs/cgroup")
NEEDED = ("slirp4netns", "unshare", "setpriv", "ip")
ADDRESS = "10.0.2.100"  # what slirp4netns gives this network


class NamespaceError(Exception):
    """The namespaces, or what is to run in them, cannot be had; the text says why."""


# --- Outside: the namespaces and the way out of them ----------------------------------------------


def run_in_namespaces(prefix: str, module: str, arguments: Sequence[str]) -> int:
    """Run `python -m MODULE ARGUMENTS`, a scratch folder's path put in front of the last ones.

    The first argument stays the first; the folder follows it. Returns the exit code.
    """
    _remove_left_over(prefix)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=_SCRATCH))
    lock = os.open(scratch, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    command = [sys.executable, "-m", module, arguments[0], str(scratch), *arguments[1:]]
    try:
        with orderly_signals() as on_signal:
            return _run(scratch, command, on_signal)
    finally:
        _remove(scratch)
        os.close(lock)


def _remove_left_over(prefix: str) -> None:
    """Remove the folders of runs that were killed: their processes ended with them."""
    for folder in _SCRATCH.glob(f"{prefix}*"):
        lock = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(BlockingIOError):  # it is in use
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        os.close(lock)


def _remove(scratch: Path) -> None:
    _remove_cgroups(scratch.name)
    shutil.rmtree(scratch, ignore_errors=True)
    if scratch.exists():
        sys.stderr.write(f"could not remove {scratch}\n")


def _run(
    scratch: Path, command: Sequence[str], on_signal: Callable[[Callable[[], None]], None]
) -> int:
    # The kernel kills unshare with us, and the first process of the namespaces with unshare.
    outer = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *command,
        ],
        start_new_session=True,  # Ctrl-C reaches us, and we tell the command
    )
    on_signal(lambda: _tell_inside(outer.pid))
    network = None
    try:
        wait(lambda: _has_own_network(outer), "unshare has made its namespaces")
        network = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                # Nothing inside needs what listens on the machine's own loopback.
                *("slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback"),
                *(str(outer.pid), "tap0"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=(scratch / "slirp4netns.log").open("wb"),
        )
        (scratch / "network-is-up").touch()
        return outer.wait()
    finally:
        for process in filter(None, (outer, network)):
            process.kill()
            process.wait()


def _has_own_network(outer: subprocess.Popen[bytes]) -> bool:
    if outer.poll() is not None:
        raise NamespaceError(f"unshare ended with {outer.returncode}")
    return Path(f"/proc/{outer.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def _tell_inside(outer: int) -> None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(outer).children():
            child.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def orderly_signals() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Let SIGTERM and Ctrl-C call what is given, so that everything is taken down in order.

    What is given after a signal came is called at once.
    """
    told: list[Callable[[], None]] = []
    has_come = False

    def take(_number: int, _frame: object) -> None:
        nonlocal has_come
        has_come = True
        for callback in told:
            callback()

    def tell(callback: Callable[[], None]) -> None:
        told.append(callback)
        if has_come:
            callback()

    before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield tell
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove_cgroups(name: str) -> None:
    """Remove the empty cgroups that an engine leaves when it is killed."""
    for top in (*_CGROUPS.glob(f"*/{name}"), *_CGROUPS.glob(name)):
        for folder in sorted((top, *filter(Path.is_dir, top.rglob("*"))), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()


# --- Inside: the first process of the namespaces --------------------------------------------------


def prepare(scratch: Path) -> None:
    """Hide the machine's sockets and resolver, and wait for the network. Raises NamespaceError."""
    # Sockets of another engine or containerd, and the lock of the machine's firewall, lie here.
    do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    resolver = scratch / "resolv.conf"
    resolver.write_text(f"nameserver {_NAMESERVER}\n")
    do("mount", "--bind", str(resolver), str(Path("/etc/resolv.conf").resolve()))
    do("ip", "link", "set", "lo", "up")
    wait((scratch / "network-is-up").exists, "slirp4netns is started")
    wait(_has_default_route, "slirp4netns gives this network a way out")


def give_share(name: str, shares: int) -> None:
    """Let the group of this name have so many shares: a group counts as one process otherwise."""
    group = _CGROUPS / "cpu" / name  # of the first version; the second has no such folder
    with contextlib.suppress(OSError):
        group.mkdir(exist_ok=True)
        (group / "cpu.shares").write_text(str(shares))


def _has_default_route() -> bool:
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    return any(line.split()[1] == "00000000" for line in routes)


def do(*command: str) -> None:
    """Run a command that must succeed. Raises NamespaceError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NamespaceError(f"{' '.join(command)}: {done.stderr.strip()}")


def wait(condition: Callable[[], bool], what: str, limit_seconds: float = 30.0) -> None:
    """Wait for a condition. Raises NamespaceError at the limit."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise NamespaceError(f"not within {limit_seconds:g} s: {what}")
        time.sleep(_POLL_SECONDS)


def last_words(*logs: Path) -> str:
    """The ends of logs, those that are there."""
    words = []
    for log in logs:
        with contextlib.suppress(OSError):
            words += log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join(words)
