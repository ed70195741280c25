"""The configuration of a node's programs: everything they write lies below one folder.

What is unusual here, and why: containerd may not raise what the kernel allows this machine
(`restrict_oom_score_adj`); there may be no systemd to ask for cgroups; cgroups of the first version
are still good enough for tests (`failCgroupV1`).
"""

from __future__ import annotations

import json
from pathlib import Path

POD_NETWORK = "10.244.7.0/24"
DNS_ADDRESS = "10.96.0.10"
DNS_DOMAIN = "cluster.local"
PAUSE_IMAGE = "localhost/pause:1"
CNI_PROGRAMS = Path("/usr/lib/cni")  # Debian's containernetworking-plugins


def write_containerd_config(folder: Path) -> Path:
    """Write containerd's configuration and that of the pods' network."""
    networks = folder / "cni"
    networks.mkdir()
    (networks / "10-pods.conflist").write_text(json.dumps(_network(folder), indent=1))
    cri = "io.containerd.grpc.v1.cri"
    path = folder / "containerd.toml"
    path.write_text(
        f"""version = 2
root = "{folder / "containerd"}"
state = "{folder / "containerd-state"}"
[grpc]
  address = "{containerd_socket(folder)}"
[plugins."{cri}"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  [plugins."{cri}".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."{cri}".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."{cri}".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."{cri}".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{networks}"
"""
    )
    return path


def containerd_socket(folder: Path) -> Path:
    """Where containerd is asked."""
    return folder / "containerd.sock"


def write_kubelet_config(folder: Path, authority: Path, cgroup_root: str) -> Path:
    """Write the kubelet's configuration; `cgroup_root` is a cgroup that is there already."""
    logs = folder / "pods"
    logs.mkdir()
    manifests = folder / "manifests"
    manifests.mkdir()
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{containerd_socket(folder)}",
        "staticPodPath": str(manifests),
        "podLogsDir": str(logs),
        # Evidence of a failure: logs are kept whole.
        "containerLogMaxSize": "1Gi",
        # The disk is the machine's, and what others do with it is not what is tested.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,  # never: there is no registry to get one from again
        "clusterDomain": DNS_DOMAIN,
        "clusterDNS": [DNS_ADDRESS],
        # Changed ConfigMaps and Secrets are seen by a watch; this is how often files follow.
        "syncFrequency": "10s",
        "shutdownGracePeriod": "0s",
    }
    path = folder / "kubelet.json"
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return path


def _network(folder: Path) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "dataDir": str(folder / "addresses"),
        "ranges": [[{"subnet": POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,  # a pod may be its own client through its Service
        "ipam": addresses,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]}
