"""Run a command with a Docker engine: `python -m tests.compose.engine COMMAND…`.

An engine that runs already is used as it is, and root is not needed. When none answers, one is
started for the command (Debian's docker.io, as root) in namespaces of its own: its processes, its
mounts, its network and its firewall's rules are not the machine's, and the kernel ends all of them
with the first process of the namespace, however that ended. The way out of that network is
slirp4netns, a program and no route. What it writes lies in a scratch folder; who builds again and
again keeps the engine's images with `MAILRELAY_ENGINE_DATA`, a folder for them.

The command runs in those namespaces too, where it finds the engine at the usual place and the
published ports on loopback.
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

ENGINE_SECONDS = 60.0  # until it answers; measured 2 s
STOP_SECONDS = 60.0  # the engine stops what still runs, 10 s each, and unmounts
_POLL_SECONDS = 0.1
_SHARES = 6 * 1024  # of six processes: a whole relay, a sink, and what builds
_ASK_SECONDS = 20.0
_INSIDE = "--inside"
_KEPT = "MAILRELAY_ENGINE_DATA"
_SCRATCH = Path("/var/tmp")  # noqa: S108 — /tmp may be memory; the folders in it are private
_PREFIX = "mailrelay-engine-"
_NAMESERVER = "10.0.2.3"  # slirp4netns answers there, whatever the machine's own is
_CGROUPS = Path("/sys/fs/cgroup")
_NEEDED = ("dockerd", "slirp4netns", "unshare", "setpriv", "ip", "iptables")


class EngineError(Exception):
    """No engine can be had; the text says why and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments are; return its exit code."""
    if arguments[:1] == [_INSIDE]:
        return _inside(Path(arguments[1]), arguments[2:])
    try:
        if engine_answers():
            return subprocess.call(list(arguments))
        return _with_own_engine(arguments)
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def engine_answers() -> bool:
    """Tell whether the Docker command reaches an engine."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    asked = [docker, "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(asked, capture_output=True, timeout=_ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


# --- Outside: the namespaces and the way out of them ----------------------------------------------


def _with_own_engine(arguments: Sequence[str]) -> int:
    if os.geteuid() != 0:
        raise EngineError("no Docker engine answers, and only root may start one: start yours")
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        raise EngineError(
            f"no Docker engine answers, and to start one {', '.join(missing)} must be there: "
            "see install_compose in .ci/run"
        )
    _remove_left_over()
    scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SCRATCH))
    lock = os.open(scratch, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with _orderly_signals() as on_signal:
            return _run(scratch, arguments, on_signal)
    finally:
        _remove(scratch)
        os.close(lock)


def _remove_left_over() -> None:
    """Remove the folders of runs that were killed: their processes ended with them."""
    for folder in _SCRATCH.glob(f"{_PREFIX}*"):
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
    scratch: Path, arguments: Sequence[str], on_signal: Callable[[Callable[[], None]], None]
) -> int:
    # The kernel kills unshare with us, and the first process of the namespaces with unshare.
    outer = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-m", "tests.compose.engine", _INSIDE, str(scratch), *arguments),
        ],
        start_new_session=True,  # Ctrl-C reaches us, and we tell the command
    )
    on_signal(lambda: _tell_inside(outer.pid))
    network = None
    try:
        _wait(lambda: _has_own_network(outer), "unshare has made its namespaces")
        network = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                # No container needs what listens on the machine's own loopback.
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
        raise EngineError(f"unshare ended with {outer.returncode}")
    return Path(f"/proc/{outer.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def _tell_inside(outer: int) -> None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(outer).children():
            child.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def _orderly_signals() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Let SIGTERM and Ctrl-C call what is given, so that everything is taken down in order."""
    told: list[Callable[[], None]] = []

    def take(_number: int, _frame: object) -> None:
        for callback in told:
            callback()

    before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told.append
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _give_share(name: str) -> None:
    """Let the containers have the share of so many processes: a group counts as one otherwise."""
    group = _CGROUPS / "cpu" / name  # of the first version; the second has no such folder
    with contextlib.suppress(OSError):
        group.mkdir()
        (group / "cpu.shares").write_text(str(_SHARES))


def _remove_cgroups(name: str) -> None:
    """Remove the empty cgroups that an engine leaves when it is killed."""
    for top in (*_CGROUPS.glob(f"*/{name}"), *_CGROUPS.glob(name)):
        for folder in sorted((top, *filter(Path.is_dir, top.rglob("*"))), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()


# --- Inside: the first process of the namespaces --------------------------------------------------


def _inside(scratch: Path, arguments: Sequence[str]) -> int:
    with _orderly_signals() as on_signal:
        try:
            engine = _start_engine(scratch)
        except (EngineError, AssertionError) as error:
            sys.stderr.write(f"{error}\n{_last_words(scratch)}\n")
            return 2
        try:
            command = subprocess.Popen(list(arguments))
            on_signal(lambda: command.send_signal(signal.SIGINT))
            return command.wait()
        finally:
            engine.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                engine.wait(STOP_SECONDS)  # what is left ends with this process


def _start_engine(scratch: Path) -> subprocess.Popen[bytes]:
    """Start the engine, with nothing of the machine's that it could take for its own."""
    # Sockets of another engine or containerd, and the lock of the machine's firewall, lie here.
    _do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    resolver = scratch / "resolv.conf"
    resolver.write_text(f"nameserver {_NAMESERVER}\n")
    _do("mount", "--bind", str(resolver), str(Path("/etc/resolv.conf").resolve()))
    _do("ip", "link", "set", "lo", "up")
    _wait((scratch / "network-is-up").exists, "slirp4netns is started")
    _wait(_has_default_route, "slirp4netns gives this network a way out")
    _give_share(scratch.name)
    log = (scratch / "dockerd.log").open("wb")
    engine = subprocess.Popen(
        [
            *("dockerd", "--data-root", os.environ.get(_KEPT) or str(scratch / "data")),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),  # there may be no systemd to ask
            *("--cgroup-parent", f"/{scratch.name}"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )

    def answers() -> bool:
        if engine.poll() is not None:
            raise EngineError(f"dockerd ended with {engine.returncode}")
        return engine_answers()

    _wait(answers, "dockerd answers", ENGINE_SECONDS)
    return engine


def _has_default_route() -> bool:
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    return any(line.split()[1] == "00000000" for line in routes)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"{' '.join(command)}: {done.stderr.strip()}")


def _wait(condition: Callable[[], bool], what: str, limit_seconds: float = 10.0) -> None:
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise EngineError(f"not within {limit_seconds:g} s: {what}")
        time.sleep(_POLL_SECONDS)


def _last_words(scratch: Path) -> str:
    words = []
    for name in ("slirp4netns.log", "dockerd.log"):
        with contextlib.suppress(OSError):
            words += (scratch / name).read_text(errors="replace").splitlines()[-15:]
    return "\n".join(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
