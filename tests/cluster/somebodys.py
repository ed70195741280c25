"""Run a command beside a cluster that is somebody's: `python -m tests.cluster.somebodys COMMAND…`.

Below `tests.support.kubernetes.machine`. The cluster is a node as `make test-cluster` has it, with
all images on it; the command gets its kubeconfig and nothing else, and knows no node. So the tests'
way with other people's clusters is tried where there is none.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence

from tests.cluster import other_version
from tests.cluster.clusters import NEXT_TAG
from tests.cluster.install import IMAGES, VERSION
from tests.compose.images import TARGETS, build_images
from tests.support.kubernetes import machine
from tests.support.kubernetes.cluster import VARIABLE
from tests.support.kubernetes.node_cluster import NodeCluster, scratch_folder

_BUILT = tuple(target for target in TARGETS if target != "all-in-one")


def main(arguments: Sequence[str]) -> int:
    """Start the cluster, run the command, end the cluster; return the command's exit code."""
    scratch = scratch_folder()
    if scratch is None:
        sys.stderr.write("this runs below `python -m tests.support.kubernetes.machine`\n")
        return 2
    build_images(_BUILT)
    other_version.build(_BUILT)
    images = [*(TARGETS[target] for target in _BUILT), *other_version.names(_BUILT)]
    cluster = NodeCluster(scratch)
    try:
        asyncio.run(cluster.start(images=images))
        for name in IMAGES:
            cluster.node.tag_image(f"mailrelay-{name}", VERSION)
        environment = {
            **os.environ,
            VARIABLE: str(cluster.kubeconfig),
            NEXT_TAG: other_version.TAG,
        }
        del environment[machine.VARIABLE]
        return subprocess.run(list(arguments), env=environment, check=False).returncode
    finally:
        cluster.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
