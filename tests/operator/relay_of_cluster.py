"""A relay whose objects are the API server's, and whose pods are processes of this machine.

What an operator made there is read, and run as it stands (`pods_as_processes`): queue, streams,
ingress, senders, monitor. Pods of the API server only say that they run; a Job's ends there when
its process has ended here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from mailrelay_operator.desired.manifest import Manifest
from tests.operator.operators import SOON, play_pod, played_node
from tests.operator.pods_as_processes import (
    Pod,
    Secrets,
    let_talk,
    nats_pods,
    owner_of,
    send,
    url_of,
)
from tests.operator.running import IMAGES
from tests.support.kubernetes.client import Client
from tests.support.wait import wait_until

SERVICES = ("ingress", "sender", "monitor")
_KINDS = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "Job"),
    ("v1", "ConfigMap"),
)
_JOB_SECONDS = 70.0  # one try of the Job: it waits a minute for the queue


class ClusterRelay:
    """The processes. `start` and `stop` name one of `nats`, `ingress`, `sender`, `monitor`."""

    def __init__(self, admin: Client, folder: Path, name: str, http_port: int) -> None:
        self._admin = admin
        self._folder = folder
        self._name = name
        self._http_port = http_port  # of the monitor: an operator is told before it is there
        self._open: dict[str, contextlib.AsyncExitStack] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._jobs: set[str] = set()  # uids of those that were run
        self.pods: dict[str, Pod] = {}
        self.secrets: Secrets = {}

    async def read(self) -> None:
        """Read what the API server has of the relay."""
        children = await self._children()
        found = await self._admin.list("v1", "Secret")
        self.secrets = {
            each["metadata"]["name"]: {
                key: base64.b64decode(value) for key, value in (each.get("data") or {}).items()
            }
            for each in found
        }
        (self.pods["nats"],) = nats_pods(children, self.secrets, self._folder)
        for component in SERVICES:
            owner = owner_of(children, component)
            pod = Pod(owner, children, self.secrets, self._folder / component)
            pod.rewrite("/etc/mailrelay/config.json")
            self.pods[component] = pod
        self.pods["monitor"].ports["http"] = self._http_port
        let_talk({name: self.pods[name] for name in SERVICES}, self._nats_url)

    @property
    def _nats_url(self) -> str:
        return url_of([self.pods["nats"]])

    async def start(self, component: str) -> None:
        """Start one, and wait until its start probe says yes."""
        pod = self.pods[component]
        stack = self._open[component] = contextlib.AsyncExitStack()
        self._processes[component] = await stack.enter_async_context(pod.running())
        await pod.wait_probed("startupProbe")

    async def stop(self, component: str, *, kill: bool = False) -> None:
        """End one, and wait for its end."""
        if kill:
            self._processes[component].kill()
        await self._open.pop(component).aclose()

    async def stop_all(self) -> None:
        """End what runs."""
        for component in list(self._open):
            await self.stop(component)

    def lose_volume(self) -> None:
        """Take away all that NATS has stored; it must not run."""
        folder = self.pods["nats"].inside("/data")
        assert list(folder.iterdir()), "NATS stored nothing"
        shutil.rmtree(folder)
        folder.mkdir()

    async def run_job(self) -> str:
        """Wait for a Job that has not been run yet, run it to its end, and say so; its uid."""
        new: list[Manifest] = []

        async def is_there() -> bool:
            jobs = await self._admin.list("batch/v1", "Job")
            new[:] = [
                job
                for job in jobs
                if job["metadata"]["uid"] not in self._jobs
                and "deletionTimestamp" not in job["metadata"]
            ]
            return bool(new)

        await wait_until(is_there, SOON, "a Job is there", interval=0.2)
        uid: str = new[0]["metadata"]["uid"]
        pod = Pod(new[0], await self._children(), self.secrets, self._folder / f"job-{uid}")
        pod.changes = {"MAILRELAY_NATS_URL": self._nats_url}
        async with pod.running() as process:
            code = await asyncio.wait_for(process.wait(), _JOB_SECONDS)
        assert code == 0, pod.said.read_text()
        self._jobs.add(uid)

        async def has_ended() -> bool:
            for each in await self._admin.list("v1", "Pod"):
                owners = {owner["uid"] for owner in each["metadata"]["ownerReferences"]}
                if uid in owners and each["status"].get("phase") == "Pending":
                    await play_pod(self._admin, each)
            job = await self._admin.get("batch/v1", "Job", new[0]["metadata"]["name"])
            return bool(job["status"].get("succeeded"))

        await wait_until(has_ended, SOON, "the Job has ended", interval=0.2)
        return uid

    async def send(self) -> None:
        """Send one mail to ingress."""
        port, namespace = self.pods["ingress"].ports["submission"], self._admin.namespace
        await asyncio.to_thread(send, port, self.secrets, self._name, namespace)

    async def _children(self) -> tuple[Manifest, ...]:
        found: list[Manifest] = []
        for api_version, kind in _KINDS:
            listed = await self._admin.list(api_version, kind)
            found += [{**each, "apiVersion": api_version, "kind": kind} for each in listed]
        return tuple(found)


@contextlib.asynccontextmanager
async def cluster_relay(
    admin: Client, folder: Path, http_port: int, name: str = "relay"
) -> AsyncIterator[ClusterRelay]:
    """Run what an operator made under this name; nothing is started yet."""
    running = ClusterRelay(admin, folder, name, http_port)
    async with played_node(admin, failing=IMAGES["TOOLS"]):
        await running.read()
        try:
            yield running
        finally:
            await running.stop_all()
