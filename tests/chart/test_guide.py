"""The commands of docs/guide/kubernetes.md, run as they stand there, in their order."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from tests.chart.helm import ROOT, Helm
from tests.chart.left import cluster_objects
from tests.chart.test_operator_of_the_chart import operator_of_the_deployment
from tests.operator.operators import played_node
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

GUIDE = ROOT / "docs" / "guide" / "kubernetes.md"
SYSTEM, SHOP = "mailrelay-system", "shop"


@pytest.mark.timeout(900)
async def test_the_commands_of_the_guide_do_what_it_says(
    api_server: ApiServer, helm: Helm, tmp_path: Path
) -> None:
    system, shop = await api_server.admin(SYSTEM), await api_server.admin(SHOP)
    said: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(removed, system)
        for line in commands():
            if "rollout status" in line:
                await stack.enter_async_context(played_node(system))
            said[line] = await ran(line, api_server, helm)
            if line == f"kubectl create namespace {SHOP}":
                operator = operator_of_the_deployment(api_server, system, tmp_path / "operator")
                await stack.enter_async_context(operator)
                await stack.enter_async_context(played_node(shop))
        listed = said["kubectl get mailrelay --namespace shop"]
        assert re.search(r"^relay +True +Ready ", listed, re.MULTILINE), listed
        assert "Ready" in said["kubectl describe mailrelay relay --namespace shop"]
        assert await cluster_objects(system) == {f"namespaces/{SYSTEM}"}


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


async def ran(line: str, api_server: ApiServer, helm: Helm) -> str:
    """Run a line, from wherever the tests are; what it printed."""
    program, *words = shlex.split(line)
    words = [str(ROOT / word) if (ROOT / word).exists() else word for word in words]
    if program == "kubectl":
        return await api_server.kubectl(*words)
    assert program == "helm"
    return await helm.did(*words)


async def removed(admin: Client) -> None:
    """Remove the guide's namespaces, and wait: another run of this test makes them again."""
    for name in (SYSTEM, SHOP):
        if await admin.find("v1", "Namespace", name):
            await admin.delete("v1", "Namespace", name)

    async def are_gone() -> bool:
        found = [await admin.find("v1", "Namespace", name) for name in (SYSTEM, SHOP)]
        return not any(found)

    await wait_until(are_gone, 120, "the guide's namespaces are gone", interval=0.2)
