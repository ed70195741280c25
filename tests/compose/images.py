"""The images, built from the Dockerfile as it is by the engine that the docker command reaches."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tests.compose.base_image import ensure_base_image
from tests.compose.docker import run
from tests.support.command import ROOT

# A target of the Dockerfile: the name that the compose files give its image.
TARGETS: Final = {
    "all-in-one": "mailrelay",
    "ingress": "mailrelay-ingress",
    "sender": "mailrelay-sender",
    "monitor": "mailrelay-monitor",
    "tools": "mailrelay-tools",
    "nats": "mailrelay-nats",
    "operator": "mailrelay-operator",
}
_BUILD_SECONDS: Final = 900.0  # measured 215 s with nothing cached, on 2 cores with a load of 10
# What pip is told here, and what the build calls it.
_INDEX: Final = {"index-url": ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")}


class ImageError(Exception):
    """An image cannot be had; the text says why."""


def build_images(
    targets: Iterable[str] = TARGETS, tree: Path = ROOT, tag: str = "latest"
) -> list[str]:
    """Build these targets of a tree; returns lines that say how long it took. Raises ImageError."""
    began = time.monotonic()
    try:
        how = ensure_base_image(ROOT / "Dockerfile")
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"the base image cannot be had: {error}") from error
    based = time.monotonic()
    for target in targets:
        # The machine's own network, because that is how this machine reaches the indexes.
        built = asyncio.run(
            run(
                *("docker", "buildx", "build", "--network", "host", "--load"),
                *("--progress", "plain", "--target", target),
                *("--tag", f"{TARGETS[target]}:{tag}"),
                *(part for each in package_index() for part in ("--build-arg", each)),
                *("--build-arg", f"REVISION={_revision()}", str(tree)),
                limit=_BUILD_SECONDS,
            )
        )
        if built.code != 0:
            last = "\n".join((built.stdout + built.stderr).splitlines()[-40:])
            raise ImageError(f"{target} cannot be built:\n{last}")
    return [
        f"base image {how.partition(',')[0]} in {based - began:.0f} s",
        f"images built in {time.monotonic() - based:.0f} s",
    ]


def _revision() -> str:
    asked = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        asked, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def package_index() -> Iterator[str]:
    """Say where packages come from, in variables: what pip is told, as the Makefile does for uv."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    for line in said.splitlines():
        key, _, value = line.partition("=")
        for name in _INDEX.get(key.rpartition(".")[2], ()):
            yield f"{name}={value.strip(chr(39))}"
    if "GOPROXY" in os.environ:
        yield f"GOPROXY={os.environ['GOPROXY']}"
