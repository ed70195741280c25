"""Run a command with a Docker engine: `python -m tests.compose.engine COMMAND…`.

An engine that runs already is used as it is, and root is not needed. When none answers, one is
started for the command (Debian's docker.io, as root) in namespaces of its own
(`tests.support.namespaces`). What it writes lies in a scratch folder; who builds again and again
keeps the engine's images with `MAILRELAY_ENGINE_DATA`, a folder for them.

The command runs in those namespaces too, where it finds the engine at the usual place and the
published ports on loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import namespaces
from tests.support.namespaces import (
    NamespaceError,
    give_share,
    last_words,
    orderly_signals,
    prepare,
    run_in_namespaces,
)

ENGINE_SECONDS = 60.0  # until it answers; measured 2 s
STOP_SECONDS = 60.0  # the engine stops what still runs, 10 s each, and unmounts
_SHARES = 6 * 1024  # of six processes: a whole relay, a sink, and what builds
_ASK_SECONDS = 20.0
_INSIDE = "--inside"
_KEPT = "MAILRELAY_ENGINE_DATA"
_PREFIX = "mailrelay-engine-"
NEEDED = ("dockerd", "iptables", *namespaces.NEEDED)


class EngineError(Exception):
    """No engine can be had; the text says why and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments are; return its exit code."""
    if arguments[:1] == [_INSIDE]:
        return _inside(Path(arguments[1]), arguments[2:])
    try:
        if engine_answers():
            return subprocess.call(list(arguments))
        _check_own_engine()
        return run_in_namespaces(_PREFIX, "tests.compose.engine", [_INSIDE, *arguments])
    except (EngineError, NamespaceError) as error:
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


def _check_own_engine() -> None:
    if os.geteuid() != 0:
        raise EngineError("no Docker engine answers, and only root may start one: start yours")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise EngineError(
            f"no Docker engine answers, and to start one {', '.join(missing)} must be there: "
            "see install_compose in .ci/run"
        )


def _inside(scratch: Path, arguments: Sequence[str]) -> int:
    """Be the first process of the namespaces."""
    with orderly_signals() as on_signal:
        try:
            prepare(scratch)
            give_share(scratch.name, _SHARES)
            engine = start_engine(scratch)
        except (EngineError, NamespaceError) as error:
            logs = (scratch / "slirp4netns.log", scratch / "dockerd.log")
            sys.stderr.write(f"{error}\n{last_words(*logs)}\n")
            return 2
        try:
            command = subprocess.Popen(list(arguments))
            on_signal(lambda: command.send_signal(signal.SIGINT))
            return command.wait()
        finally:
            stop_engine(engine)


def start_engine(scratch: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start an engine, `more` its further arguments, and wait until it answers.

    Raises EngineError, NamespaceError.
    """
    log = (scratch / "dockerd.log").open("wb")
    engine = subprocess.Popen(
        [
            *("dockerd", "--data-root", os.environ.get(_KEPT) or str(scratch / "data")),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),  # there may be no systemd to ask
            *("--cgroup-parent", f"/{scratch.name}"),
            *more,
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )

    def answers() -> bool:
        if engine.poll() is not None:
            raise EngineError(f"dockerd ended with {engine.returncode}")
        return engine_answers()

    namespaces.wait(answers, "dockerd answers", ENGINE_SECONDS)
    return engine


def stop_engine(engine: subprocess.Popen[bytes]) -> None:
    """End it in order; what is left then ends with the namespaces' first process."""
    engine.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        engine.wait(STOP_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
