"""One real node: containerd, kubelet, kube-proxy, scheduler and kube-router, for a control plane.

It runs as root in the namespaces of `tests.support.kubernetes.machine` and nowhere else: what it
does to network, mounts and firewall is gone with them, and so is every shim and container.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Final

from tests.support.kubernetes.archive import write_image
from tests.support.kubernetes.client import open_client
from tests.support.kubernetes.control_plane import SERVICES, ControlPlane
from tests.support.kubernetes.credentials import NODE, write_kubeconfig
from tests.support.kubernetes.node_files import (
    PAUSE_IMAGE,
    POD_NETWORK,
    containerd_socket,
    write_containerd_config,
    write_kubelet_config,
)
from tests.support.kubernetes.process import Daemon
from tests.support.wait import wait_until

READY_SECONDS: Final = (
    120.0  # measured: docs/decisions/0033; the rest is for a machine that is busy
)
_COMMAND_SECONDS: Final = 180.0
# For twelve images: with a load of 40 it was not done after 180 s (2026-11-26).
_IMPORT_SECONDS: Final = 600.0
_PAUSE: Final = Path("/usr/bin/catatonit")  # a static program that waits and reaps
_CGROUPS: Final = Path("/sys/fs/cgroup")
COREDNS_IMAGE: Final = "localhost/coredns:1"


class Node:
    """The node's programs on one folder. Start it in the main thread (see `process`)."""

    def __init__(
        self, programs: dict[str, Path], plane: ControlPlane, folder: Path, address: str
    ) -> None:
        folder.mkdir(mode=0o711)  # pods' users pass through it to what is mounted for them
        self._programs = programs
        self._plane = plane
        self._folder = folder
        self.logs = folder / "pods"
        credentials = plane.credentials
        kubelet = write_kubeconfig(folder / "node.kubeconfig", plane.cluster, credentials.node)
        proxy = write_kubeconfig(folder / "proxy.kubeconfig", plane.cluster, credentials.proxy)
        scheduler = write_kubeconfig(
            folder / "scheduler.kubeconfig", plane.cluster, credentials.scheduler
        )
        group = _make_cgroup(folder.parent.name)
        config = write_kubelet_config(folder, credentials.authority, group)
        self.containerd = Daemon(
            "containerd",
            f"--config={write_containerd_config(folder)}",
            log=folder / "containerd.log",
        )
        self.kubelet = Daemon(
            programs["kubelet"],
            f"--config={config}",
            f"--kubeconfig={kubelet}",
            f"--root-dir={folder / 'kubelet'}",
            f"--cert-dir={folder / 'kubelet-pki'}",
            f"--hostname-override={NODE}",
            f"--node-ip={address}",
            log=folder / "kubelet.log",
        )
        self.proxy = Daemon(
            programs["kube-proxy"],
            f"--kubeconfig={proxy}",
            f"--hostname-override={NODE}",
            # Not iptables: kube-router reads its filter table, and writes it back whole a moment
            # later. What kube-proxy changed in between is lost, for as long as no Service changes.
            "--proxy-mode=nftables",
            f"--cluster-cidr={POD_NETWORK}",
            f"--bind-address={address}",
            # The kernel's settings for all namespaces are not ours to change.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            log=folder / "kube-proxy.log",
        )
        self.scheduler = Daemon(
            programs["kube-scheduler"],
            f"--kubeconfig={scheduler}",
            "--leader-elect=false",
            "--secure-port=0",  # it serves nothing
            log=folder / "kube-scheduler.log",
        )
        self.policy_engine = Daemon(
            programs["kube-router"],
            f"--kubeconfig={plane.kubeconfig}",
            f"--hostname-override={NODE}",
            # It enforces NetworkPolicies; Services are kube-proxy's and routes the bridge's.
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--run-loadbalancer=false",
            f"--service-cluster-ip-range={SERVICES}",
            "--health-port=0",
            log=folder / "kube-router.log",
        )

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """All five, in the order in which they start."""
        return (self.containerd, self.scheduler, self.proxy, self.kubelet, self.policy_engine)

    async def start_containerd(self) -> None:
        """Start what images are given to, and give it those of the node itself."""
        self.containerd.start()
        await wait_until(self._containerd_answers, READY_SECONDS, "containerd answers", 0.1)
        await asyncio.to_thread(self._import_own_images)

    async def start(self) -> None:
        """Start the other four, and wait until the node is ready for pods."""
        _set_kernel()
        for daemon in (self.scheduler, self.proxy, self.kubelet):
            daemon.start()
        async with open_client(self._plane.kubeconfig) as client:

            async def is_ready() -> bool:
                self.check()
                node = await client.find("v1", "Node", NODE)
                told = (node or {}).get("status", {}).get("conditions", ())
                return any((c["type"], c["status"]) == ("Ready", "True") for c in told)

            await wait_until(is_ready, READY_SECONDS, "the node is ready", interval=0.1)
        self.policy_engine.start()  # it asks for the node at its start

    def check(self) -> None:
        """Fail when one of them has ended by itself."""
        for daemon in self.daemons:
            daemon.check()

    def kill(self) -> None:
        """End all five by SIGKILL. Containers go on until the namespaces end."""
        for daemon in reversed(self.daemons):
            daemon.kill()

    def import_images(self, archive: Path) -> None:
        """Give the node's containerd all images of an archive."""
        self._ctr("images", "import", str(archive))

    def import_program(self, name: str, program: Path, *arguments: str) -> None:
        """Give the node's containerd an image that has one static program and nothing else."""
        archive = self._folder / "image.tar"
        inside = f"bin/{program.name}"
        write_image(archive, name, {inside: program}, (f"/{inside}", *arguments))
        self.import_images(archive)
        archive.unlink()

    def import_from_engine(self, *names: str) -> None:
        """Give the node's containerd images of the Docker engine."""
        with subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE) as saving:  # noqa: S607 — on PATH
            done = subprocess.run(
                self._ctr_command("images", "import", "-"),
                stdin=saving.stdout,
                capture_output=True,
                text=True,
                timeout=_IMPORT_SECONDS,
                check=False,
            )
        assert (done.returncode, saving.returncode) == (0, 0), done.stderr

    def tag_image(self, name: str, tag: str) -> None:
        """Let an image of the engine's have a second name."""
        self._ctr("images", "tag", "--force", image_reference(name), image_reference(name, tag))

    def pid_of(self, container_id: str) -> int:
        """The process that is a container's first, here in the node's namespaces.

        `container_id` is what a pod's status says of it. Raises LookupError when it has ended.
        """
        wanted = container_id.partition("://")[2]
        for line in self._ctr("tasks", "ls").splitlines():
            fields = line.split()
            if fields[0] == wanted and fields[2] == "RUNNING":
                return int(fields[1])
        raise LookupError(f"{container_id} does not run")

    def _containerd_answers(self) -> bool:
        self.containerd.check()
        command = self._ctr_command("version")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _import_own_images(self) -> None:
        self.import_program(PAUSE_IMAGE, _PAUSE, "-P")
        self.import_program(COREDNS_IMAGE, self._programs["coredns"])

    def _ctr(self, *arguments: str) -> str:
        done = subprocess.run(
            self._ctr_command(*arguments),
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"ctr {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def _ctr_command(self, *arguments: str) -> list[str]:
        address = str(containerd_socket(self._folder))
        return ["ctr", "--address", address, "--namespace", "k8s.io", *arguments]


def _set_kernel() -> None:
    """Set what is of these namespaces alone."""
    settings = Path("/proc/sys/net")
    (settings / "ipv4/ip_forward").write_text("1")  # between pods
    # Rules look at what stays on the bridge, too: Services and policies are made of them.
    (settings / "bridge/bridge-nf-call-iptables").write_text("1")
    # A refused connection is told to whoever tried it, however many are refused in a second.
    (settings / "ipv4/icmp_ratelimit").write_text("0")


def _make_cgroup(name: str) -> str:
    """Make the group that all pods are in, which goes with the scratch folder of that name."""
    tops = [_CGROUPS] if (_CGROUPS / "cgroup.controllers").exists() else _of_first_version()
    for top in tops:
        group = top / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # of the first version: empty at first
            if (top / setting).exists() and (group / setting).exists():
                (group / setting).write_text((top / setting).read_text())
    return f"/{name}"


def _of_first_version() -> list[Path]:
    return [top for top in _CGROUPS.iterdir() if top.is_dir() and os.path.ismount(top)]


def image_reference(name: str, tag: str = "latest") -> str:
    """What pods call an image of the engine's."""
    return f"docker.io/library/{name}:{tag}"
