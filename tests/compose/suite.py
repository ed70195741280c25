"""Run `make test` on the Python of the images: `python -m tests.compose.suite [FOLDER…]`.

The other tests run on the machine's Python, which may be the oldest that is supported; the images
have a newer one, which warns of more. A container of their base, with what the Makefile needs, gets
the files that are tested and makes an environment of its own. No folder: all that `make test` runs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.compose.images import ImageError, build_images, package_index
from tests.compose.machine import IMAGE, build_machine
from tests.compose.page import publish

# The folder is somebody else's, which git asks to be told.
_SCRIPT = """set -eu
git config --global --add safe.directory '*'
git clone --quiet /srv/upstream /srv/checkout
cd /srv/checkout
exec make test PYTHON=python3 TESTS="$*" ARGS='-n 2'
"""


def main(folders: Sequence[str]) -> int:
    """Run the tests of these folders; return make's exit code."""
    try:
        build_images(["nats"])
    except ImageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    asyncio.run(build_machine())
    with tempfile.TemporaryDirectory(prefix="mailrelay-suite-") as folder:
        asyncio.run(publish(Path(folder)))
        index = [part for each in package_index() for part in ("--env", each)]
        command = ("docker", "run", "--rm", "--init", "--volume", f"{folder}:/srv/upstream:ro")
        # An engine's own networks have no IPv6 as a rule, not even on loopback.
        network = ("--network", "host")
        script = ("bash", "-c", _SCRIPT, "suite", *(folders or ["tests"]))
        return subprocess.run([*command, *network, *index, IMAGE, *script], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
