"""What a pod gives the operator: a number for a user, and a folder with its account's token."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes.aio.config import incluster_config

from mailrelay_operator.child import Manifest
from mailrelay_operator.cluster.login import access
from mailrelay_operator.handlers import watch_relays
from mailrelay_operator.rights import OWN, RELAYS, rules
from tests.operator.operators import ACCOUNT, SOON, relay
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer, cluster_of
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator


@contextlib.asynccontextmanager
async def watching(environ: Mapping[str, str], namespace: str) -> AsyncIterator[list[str]]:
    """Watch relays as the operator does; the list is of those that were noticed."""
    seen: list[str] = []

    def noticed(_kind: str | None, body: Manifest) -> None:
        seen.append(body["metadata"]["name"])

    task = asyncio.create_task(
        watch_relays(noticed, lambda: access(environ), (namespace,), lambda: None)
    )
    try:
        await wait_until(lambda: task.done() or seen, SOON, "a relay is noticed")
        assert not task.done(), task
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_relays_are_watched_by_a_user_without_a_name(
    api_server: ApiServer, admin: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    await admin.apply(relay())
    async with watching({"KUBECONFIG": str(api_server.kubeconfig)}, namespace) as seen:
        assert seen == ["relay"]


async def test_relays_are_watched_with_the_token_of_the_pods_account(
    api_server: ApiServer,
    admin: Client,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await api_server.service_account(namespace, ACCOUNT, rules=rules((*RELAYS, *OWN)))
    kubeconfig = await api_server.kubeconfig_of(namespace, ACCOUNT)
    _lay_out_account(kubeconfig, tmp_path, monkeypatch)
    await admin.apply(relay())
    async with watching(os.environ, namespace) as seen:
        assert seen == ["relay"]


def _lay_out_account(kubeconfig: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out what the kubelet does, from a kubeconfig file with a token."""
    (user,) = yaml.safe_load(kubeconfig.read_text())["users"]
    token = folder / "token"
    token.write_text(user["user"]["token"])
    cluster = cluster_of(kubeconfig)
    server = urlsplit(cluster["server"])
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", cluster["certificate-authority"])
