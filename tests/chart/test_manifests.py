"""`make manifests`: one file for kubectl, without Helm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.chart.helm import CHART, ROOT, Helm
from tests.chart.left import cluster_objects, objects
from tests.chart.test_guide import SYSTEM, removed
from tests.chart.test_life import INSTALLED, KEPT, OF_CLUSTER, RECORDS
from tests.support.kubernetes.client import documents
from tests.support.kubernetes.cluster import ApiServer
from tests.support.kubernetes.programs import find_programs
from tools.chart.manifests import main

pytestmark = pytest.mark.operator


@pytest.fixture
def file(tmp_path: Path) -> Path:
    helm = find_programs(["helm"], print)["helm"]
    path = tmp_path / "dist" / "mailrelay.yaml"
    assert main([str(helm), str(path), "--set", "images.registry=registry.example.org"]) == 0
    return path


async def test_kubectl_installs_from_one_file_and_a_chart_beside_it_is_refused(
    file: Path, api_server: ApiServer, helm: Helm
) -> None:
    admin = await api_server.admin(SYSTEM)
    apply = ("apply", "--server-side", "--validate=strict", "--filename", str(file))
    try:
        await api_server.kubectl(*apply, namespace=SYSTEM)
        found = await objects(admin, SYSTEM)
        assert {each for each in found if not each.startswith(RECORDS)} == INSTALLED
        assert await cluster_objects(admin) == OF_CLUSTER | KEPT | {f"namespaces/{SYSTEM}"}
        again = await api_server.kubectl(*apply, namespace=SYSTEM)
        assert "deployment.apps/mailrelay-operator serverside-applied" in again
        said = await helm.refused("install", "mailrelay", str(CHART), "--namespace", SYSTEM)
        assert "MailRelay is installed already, without Helm" in said
    finally:
        await removed(admin)


def test_nothing_in_the_file_says_that_helm_keeps_it(file: Path) -> None:
    manifests = documents(file.read_text())
    assert "helm" not in "\n".join(
        line for line in file.read_text().lower().splitlines() if not line.startswith("#")
    )
    (deployment,) = (each for each in manifests if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example.org/mailrelay-operator:")
    # Whom it selects still has the labels.
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_wrong_value_ends_with_helms_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    helm = find_programs(["helm"], print)["helm"]
    assert main([str(helm), str(tmp_path / "x.yaml"), "--set", "operator.replicas=9"]) != 0
    assert "/operator/replicas" in capfd.readouterr().err
    assert not (tmp_path / "x.yaml").exists()


def test_make_knows_it() -> None:
    listed = subprocess.run(["make", "-n", "manifests"], cwd=ROOT, capture_output=True, text=True)  # noqa: S607, PLW1510 — make is there
    assert "tools.chart.manifests" in listed.stdout
