"""Run a command where a node may live: `python -m tests.support.kubernetes.machine COMMAND…`.

As root, in namespaces of its own (`tests.support.namespaces`), with a Docker engine for building
images. The engine has no network of its own and no firewall rules: builds use this namespace's, and
the rules in it are the node's alone. `MAILRELAY_MACHINE` names the scratch folder for the command.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.compose.engine import NEEDED as ENGINE_NEEDS
from tests.compose.engine import EngineError, start_engine, stop_engine
from tests.support.kubernetes.node_files import CNI_PROGRAMS
from tests.support.namespaces import (
    NamespaceError,
    give_share,
    last_words,
    orderly_signals,
    prepare,
    run_in_namespaces,
)

VARIABLE: Final = "MAILRELAY_MACHINE"
_PREFIX: Final = "mailrelay-node-"
_INSIDE: Final = "--inside"
_NEEDED: Final = (
    *ENGINE_NEEDS,
    *("containerd", "ctr", "runc", "conntrack", "catatonit", "ipset", "nft"),
)
_SHARES: Final = 12 * 1024  # of twelve processes: pods, among other work of the machine


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments are; return its exit code."""
    if arguments[:1] == [_INSIDE]:
        return _inside(Path(arguments[1]), arguments[2:])
    try:
        _check()
        return run_in_namespaces(_PREFIX, "tests.support.kubernetes.machine", [_INSIDE, *arguments])
    except NamespaceError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _check() -> None:
    if os.geteuid() != 0:
        raise NamespaceError("a node needs root")
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if not (CNI_PROGRAMS / "bridge").exists():
        missing.append(f"{CNI_PROGRAMS}/bridge")
    if missing:
        raise NamespaceError(f"a node needs {', '.join(missing)}: see install_cluster in .ci/run")


def _inside(scratch: Path, arguments: Sequence[str]) -> int:
    """Be the first process of the namespaces."""
    scratch.chmod(0o711)  # pods' users pass through it to what is mounted for them
    # The kubelet would ask a cloud's address, and wait, for what this machine is.
    environment = {**os.environ, VARIABLE: str(scratch), "AWS_EC2_METADATA_DISABLED": "true"}
    with orderly_signals() as on_signal:
        try:
            prepare(scratch)
            give_share(scratch.name, _SHARES)
            engine = start_engine(scratch, "--bridge=none", "--iptables=false")
        except (EngineError, NamespaceError) as error:
            logs = (scratch / "slirp4netns.log", scratch / "dockerd.log")
            sys.stderr.write(f"{error}\n{last_words(*logs)}\n")
            return 2
        try:
            command = subprocess.Popen(list(arguments), env=environment)
            on_signal(lambda: command.send_signal(signal.SIGINT))  # as pytest likes it
            return command.wait()
        finally:
            stop_engine(engine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
