"""The commands of the pages on Kubernetes, run as they stand there, in their order."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path

import pytest

from tests.chart.helm import ROOT, Helm
from tests.chart.left import cluster_objects
from tests.chart.test_operator_of_the_chart import operator_of_the_deployment
from tests.operator.operators import played_node, wait_condition
from tests.support.command import run
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.pages import GUIDES, commands
from tests.support.relay import COMMAND
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

GUIDE = GUIDES / "kubernetes.md"
FROM_CHART = GUIDES / "from-docker-postfix.md"
SYSTEM, SHOP = "mailrelay-system", "shop"
NAMESPACE_IS_MADE = f"kubectl create namespace {SHOP}"


@pytest.mark.timeout(900)
async def test_the_commands_of_the_guide_do_what_it_says(
    api_server: ApiServer, helm: Helm, tmp_path: Path
) -> None:
    system = await api_server.admin(SYSTEM)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(removed, system)
        reader = Reader(api_server, helm, tmp_path, stack)
        said = {line: await reader.run(line) for line in commands(GUIDE)}
        listed = said["kubectl get mailrelay --namespace shop"]
        assert re.search(r"^relay +True +Ready ", listed, re.MULTILINE), listed
        assert "Ready" in said["kubectl describe mailrelay relay --namespace shop"]
        assert await cluster_objects(system) == {f"namespaces/{SYSTEM}"}


@pytest.mark.timeout(600)
async def test_who_comes_from_the_docker_postfix_chart_gets_what_the_page_says(
    api_server: ApiServer, helm: Helm, tmp_path: Path
) -> None:
    system, shop = await api_server.admin(SYSTEM), await api_server.admin(SHOP)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(removed, system)
        reader = Reader(api_server, helm, tmp_path, stack)
        for line in (*commands(GUIDE)[:2], NAMESPACE_IS_MADE, *commands(FROM_CHART)):
            await reader.run(line)
        alias = await shop.get("v1", "Service", "mail")
        ingress = await shop.get("v1", "Service", "relay-ingress")
        assert alias["spec"]["externalName"].split(".")[0] == ingress["metadata"]["name"]
        await wait_condition(shop, "Degraded", "False", "AsExpected", "relay")
        await reader.run("helm uninstall mailrelay --namespace mailrelay-system --wait")
        await reader.run("kubectl delete crd mailrelays.mailrelay.dev")


class Reader:
    """Runs the lines of a page as its reader would, from wherever the tests are.

    There is no node: whose pods a line waits for, and the operator, are played from then on, until
    `stack` ends.
    """

    def __init__(
        self, api_server: ApiServer, helm: Helm, folder: Path, stack: contextlib.AsyncExitStack
    ) -> None:
        self._api_server = api_server
        self._helm = helm
        self._folder = folder  # what the commands make is made here
        self._stack = stack

    async def run(self, line: str) -> str:
        """Run a line; what it printed."""
        if "rollout status" in line:
            system = await self._api_server.admin(SYSTEM)
            await self._stack.enter_async_context(played_node(system))
        said = await self._said(line)
        if line == NAMESPACE_IS_MADE:
            system = await self._api_server.admin(SYSTEM)
            folder = self._folder / "operator"
            operator = operator_of_the_deployment(self._api_server, system, folder)
            await self._stack.enter_async_context(operator)
            await self._stack.enter_async_context(played_node(await self._api_server.admin(SHOP)))
        return said

    async def _said(self, line: str) -> str:
        if "|" in line:
            return await self._in_shell(line)
        program, *words = [self._where(word) for word in shlex.split(line)]
        if program == "kubectl":
            return await self._api_server.kubectl(*words)
        assert program == "helm"
        return await self._helm.did(*words)

    async def _in_shell(self, line: str) -> str:
        path = f"{COMMAND.parent}:{os.environ['PATH']}"
        done = await run(
            *("bash", "-euc", f"cd {shlex.quote(str(self._folder))}\n{line}"),
            limit=60,
            environ=os.environ | {"PATH": path},
        )
        assert done.code == 0, f"{line}\n{done.stderr}"
        return done.stdout

    def _where(self, word: str) -> str:
        """Name a file where it is: in the checkout, or made by a line before."""
        if word.startswith("--from-file="):
            option, _, name = word.rpartition("=")
            return f"{option}={self._folder / name}"
        return str(ROOT / word) if (ROOT / word).exists() else word


async def removed(admin: Client) -> None:
    """Remove the guide's namespaces, and wait: another run of this test makes them again."""
    for name in (SYSTEM, SHOP):
        if await admin.find("v1", "Namespace", name):
            await admin.delete("v1", "Namespace", name)

    async def are_gone() -> bool:
        found = [await admin.find("v1", "Namespace", name) for name in (SYSTEM, SHOP)]
        return not any(found)

    await wait_until(are_gone, 120, "the guide's namespaces are gone", interval=0.2)
