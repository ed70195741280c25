"""Volumes for the claims of a cluster that has one node: folders of it, made when asked for.

A storage class whose provisioner is this process:
`python -m tests.support.kubernetes.volumes KUBECONFIG FOLDER`. The volumes are `local` ones, as
root made them and closed to everybody else, so the kubelet has to give them to a pod's group as it
would any disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path
from typing import Final

import aiohttp

from tests.support.kubernetes.client import ApiRefusedError, Client, Manifest, open_client
from tests.support.kubernetes.credentials import NODE

CLASS: Final = "folders"
_LOOK_SECONDS: Final = 0.2

STORAGE_CLASS: Final[Manifest] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": CLASS,
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "mailrelay.dev/tests",
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "Immediate",
    "allowVolumeExpansion": True,
}


async def provision(kubeconfig: Path, folder: Path) -> None:
    """Make a volume for each claim, and remove it after its claim; without end."""
    async with open_client(kubeconfig) as client:
        while True:
            # The API server may be away, or somebody may have been quicker; the next look is soon.
            with contextlib.suppress(ApiRefusedError, aiohttp.ClientError, TimeoutError):
                await _look(client, folder)
            await asyncio.sleep(_LOOK_SECONDS)


async def _look(client: Client, folder: Path) -> None:
    claims = (await client.request("GET", "/api/v1/persistentvolumeclaims"))["items"]
    volumes = await client.list("v1", "PersistentVolume")
    there = {each["metadata"]["name"] for each in volumes}
    for claim in claims:
        name = f"pv-{claim['metadata']['uid']}"
        is_ours = claim["spec"].get("storageClassName") == CLASS
        if is_ours and name not in there and not claim["spec"].get("volumeName"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
            await client.create(_volume(claim, name, folder / name))
    for volume in volumes:
        if volume["status"].get("phase") == "Released":
            name = volume["metadata"]["name"]
            await client.delete("v1", "PersistentVolume", name)
            await asyncio.to_thread(shutil.rmtree, folder / name, ignore_errors=True)


def _volume(claim: Manifest, name: str, folder: Path) -> Manifest:
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "storageClassName": CLASS,
            # The provisioner removes it: for this class nobody else would.
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }


def main(kubeconfig: Path, folder: Path) -> None:
    """Run until killed."""
    folder.mkdir(mode=0o711, exist_ok=True)
    asyncio.run(provision(kubeconfig, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
