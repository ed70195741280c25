"""The tests' code for pods: one zip in a ConfigMap, which Python imports from."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.command import ROOT
from tests.support.kubernetes.client import Manifest

NAME: Final = "tests"
_FILE: Final = "tests.zip"
_FOLDER: Final = "/code"
_PACKAGES: Final = (ROOT / "tests", ROOT / "tests" / "support", ROOT / "tests" / "cluster")
# What runs in pods; everything else of the cluster's tests needs a Kubernetes client.
_PROGRAMS: Final = ("load_pod", "put_file", "follow_file", "kill_container")


def code(namespace: str) -> Manifest:
    """The ConfigMap."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (*_PACKAGES, *_files()):  # without its folder a package is not found
            archive.write(path, path.relative_to(ROOT))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace},
        "binaryData": {_FILE: base64.b64encode(written.getvalue()).decode()},
    }


def code_volume() -> Manifest:
    """The volume of a pod that runs it."""
    return {"name": NAME, "configMap": {"name": NAME}}


def code_mount() -> Manifest:
    """Where its container sees the volume."""
    return {"name": NAME, "mountPath": _FOLDER, "readOnly": True}


def code_environment() -> list[Manifest]:
    """What lets its Python find the code."""
    return [{"name": "PYTHONPATH", "value": f"{_FOLDER}/{_FILE}"}]


def _files() -> Iterator[Path]:
    yield from sorted(_PACKAGES[1].glob("*.py"))
    for name in _PROGRAMS:
        yield _PACKAGES[2] / f"{name}.py"
