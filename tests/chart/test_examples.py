"""The examples, as they are: applied strictly, with the commands in their comments, and kept."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailrelay.config.users import hash_password
from mailrelay.queue.nkey import new_seed
from mailrelay.queue.rights import Role
from mailrelay_operator.certificates import new_authority, new_certificate
from tests.chart.helm import ROOT, Helm
from tests.chart.test_operator_of_the_chart import installed_operator
from tests.operator.operators import RELAY, SOON, played_node, wait_condition
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

EXAMPLES = {path.stem: path.read_text() for path in (ROOT / "examples").glob("*.yaml")}
NAMES = {"minimal", "production", "development", "external-nats", "from-docker-postfix"}


def test_there_is_an_example_for_each_way_to_run_a_relay() -> None:
    assert set(EXAMPLES) == NAMES


@pytest.mark.parametrize("example", sorted(EXAMPLES))
async def test_an_example_is_taken_strictly_and_its_relay_gets_ready(
    example: str,
    api_server: ApiServer,
    helm: Helm,
    admin: Client,
    namespace: str,
    tmp_path: Path,
) -> None:
    text = EXAMPLES[example]
    (body,) = yaml.safe_load_all(text)
    name = body["metadata"]["name"]
    values = {"operator": {"watchNamespaces": [namespace]}}
    running = installed_operator(api_server, helm, admin, tmp_path / "operator", values)
    async with running, played_node(admin):
        for command in commands(text):
            await api_server.kubectl(*with_files(command, tmp_path), namespace=namespace)
        await admin.apply(body, strict=True)
        if "issuerRef" in body["spec"].get("ingress", {}).get("tls", {}):
            await issue(admin, name, body["spec"]["hostName"])
        await wait_condition(admin, "Ready", "True", "Ready", name)
        await wait_condition(admin, "Degraded", "False", "AsExpected", name)
        stored = await admin.get(*RELAY, name)
    assert stored["status"]["observedGeneration"] == stored["metadata"]["generation"]


def commands(text: str) -> list[list[str]]:
    """What the example's comments have people run before."""
    found = re.findall(r"^#   (kubectl create .*)$", text, re.MULTILINE)
    return [shlex.split(each)[1:] for each in found]


def with_files(command: list[str], folder: Path) -> list[str]:
    """Make the files that a command reads, and name them where they are."""
    option = "--from-file="
    return [
        f"{key}={made(folder, file)}" if word.startswith(option) else word
        for word in command
        for key, _, file in [word.rpartition("=")]
    ]


def made(folder: Path, name: str) -> Path:
    """A file of that name, with what the relay wants of it."""
    role, _, ending = name.partition(".")
    if ending == "seed":
        assert role in {each.value for each in Role}
    (folder / name).write_text(new_seed() if ending == "seed" else f"ada:{hash_password('open')}\n")
    return folder / name


async def issue(admin: Client, name: str, host: str) -> None:
    """Do cert-manager's work: its controller does not run here, its definition is the real one."""
    found: dict[str, Any] = {}

    async def is_asked_for() -> bool:
        nonlocal found
        found = await admin.find("cert-manager.io/v1", "Certificate", f"{name}-ingress") or {}
        return bool(found)

    await wait_until(is_asked_for, SOON, "a certificate is asked for", interval=0.1)
    assert found["spec"]["dnsNames"] == [host]
    now = dt.datetime.now(dt.UTC)
    pair = new_certificate(new_authority(name, now), [host], now)
    await admin.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": found["spec"]["secretName"]},
            "stringData": {
                "tls.crt": pair.certificate.decode(),
                "tls.key": pair.key.decode(),
            },
        }
    )
