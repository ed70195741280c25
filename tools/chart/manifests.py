"""`python -m tools.chart.manifests HELM FILE [OPTION…]`: all of the chart for kubectl, in one file.

It is what `helm template` renders with these options, without hooks and without what says that
Helm keeps it, after the namespace that it goes to.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

NAMESPACE: Final = "mailrelay-system"
_CHART: Final = Path(__file__).parents[2] / "charts" / "mailrelay"
_HELM_LABELS: Final = ("app.kubernetes.io/managed-by", "helm.sh/chart")
_NOTICE: Final = """\
# MailRelay's operator and the definition of MailRelay, made by `make manifests`:
#
#   kubectl apply --server-side -f THIS_FILE
#
# The same line upgrades. The guide (docs/guide/kubernetes.md) goes on from here.
"""

Manifest = dict[str, Any]


def manifests_text(rendered: str) -> str:
    """Return the file, from what Helm rendered."""
    manifests = [each for each in yaml.safe_load_all(rendered) if each]
    parts = [_namespace(), *(_without_helm(each) for each in manifests)]
    return _NOTICE + "".join(f"---\n{_yaml(part)}" for part in parts)


def _namespace() -> Manifest:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _without_helm(manifest: Manifest) -> Manifest:
    metadatas = [manifest["metadata"]]
    if "template" in manifest.get("spec", {}):
        metadatas.append(manifest["spec"]["template"]["metadata"])
    for metadata in metadatas:
        for name in _HELM_LABELS:
            metadata.get("labels", {}).pop(name, None)
        annotations = metadata.get("annotations", {})
        annotations.pop("helm.sh/resource-policy", None)
        if not annotations:
            metadata.pop("annotations", None)
    return manifest


def _yaml(manifest: Manifest) -> str:
    text: str = yaml.safe_dump(manifest, sort_keys=False, width=100, allow_unicode=True)
    return text


def render(helm: str, options: Iterable[str]) -> str:
    """Run Helm. Raises CalledProcessError; what is wrong stands on standard error."""
    command = [helm, "template", "mailrelay", str(_CHART), "--namespace", NAMESPACE, "--no-hooks"]
    done = subprocess.run(  # noqa: S603 — the caller's Helm
        [*command, *options], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def main(arguments: Sequence[str]) -> int:
    """Write the file; returns the exit code."""
    helm, file, *options = arguments
    try:
        text = manifests_text(render(helm, options))
    except subprocess.CalledProcessError as error:
        return error.returncode
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
