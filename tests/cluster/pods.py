"""Pods that run the tests' code: clients, sinks, and what kills."""

from __future__ import annotations

from typing import Final

from tests.cluster.code import code_environment, code_mount, code_volume
from tests.cluster.shared import MOUNT, NAME, USER, Shared
from tests.support.kubernetes.client import Manifest

_GRACE_SECONDS: Final = 5


def container(image: str, command: list[str]) -> Manifest:
    """The container of a pod that runs the tests' code in the tools image."""
    return {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": code_environment(),
        "volumeMounts": [code_mount()],
        "securityContext": {
            "runAsUser": USER,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def pod(main: Manifest, shared: Shared | None = None) -> Manifest:
    """The pod around it, which shares a folder with the tests."""
    volumes = [code_volume()]
    if shared is not None:
        main["volumeMounts"].append({"name": NAME, "mountPath": MOUNT})
        volumes.append(shared.volume())
    return {
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "containers": [main],
        "volumes": volumes,
    }
