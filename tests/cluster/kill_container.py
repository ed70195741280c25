"""SIGKILL for a container's first process: `python -m tests.cluster.kill_container ID`.

As root in a pod that sees its node's processes (`hostPID`): a container's own first process takes
no SIGKILL from inside.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def main(container: str) -> str:
    """Find it by its control group, and kill it; what went wrong, or nothing."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            groups, status = (folder / "cgroup").read_text(), (folder / "status").read_text()
        except OSError:  # it has ended
            continue
        (numbers,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
        if container in groups and numbers.split()[-1] == "1":
            os.kill(int(folder.name), signal.SIGKILL)
            return ""
    return f"no first process of {container} on this node"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) or 0)
