"""The optional first relay: a Job applies it once the definition is served.

There is no node, so the test does the Job's pod's work: it runs the pod's own command, with the
pod's account, on this machine, and says of the pod how that ended.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.chart.helm import CHART, Helm, Outcome, Values
from tests.chart.left import RELAY, objects, wait_served
from tests.chart.modes import SPEC, mode
from tests.operator.operators import SOON
from tests.support import command
from tests.support.kubernetes.client import Client, Manifest
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

JOB = "mailrelay-first-relay"


async def test_installing_with_a_relay_makes_it_in_one_go(
    helm: Helm, api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    values = mode("a first relay", namespace)
    outcome, said = await installed(helm, api_server, admin, values, tmp_path)
    assert outcome.code == 0, outcome.err + said
    assert said == f"MailRelay {namespace}/first is applied\n"
    found = await admin.get(*RELAY, "first")
    assert found["spec"]["routes"][0]["smartHosts"][0]["host"] == "smtp.example.com"
    assert found["metadata"]["labels"] == {"example.com/team": "mail"}
    assert found["metadata"]["annotations"] == {"example.com/ticket": "8"}
    assert f"kubectl wait --namespace {namespace} mailrelay/first" in outcome.out
    # The Job was a step of the installation, and is gone with its account and rights.
    left = {each for each in await objects(admin, namespace) if JOB in each}
    assert left == set()


async def test_what_a_rule_refuses_is_told_in_the_api_servers_words(
    helm: Helm, api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    values = {"relay": {"create": True, "spec": {"security": {"logAllEmails": True}}}}
    outcome, said = await installed(helm, api_server, admin, values, tmp_path)
    assert outcome.code != 0
    assert "security.logAllEmails needs emails.claimName" in said
    assert await admin.find(*RELAY, "relay") is None


async def test_an_upgrade_changes_it_and_uninstalling_leaves_it(
    helm: Helm, api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    values: Values = {"relay": {"create": True, "spec": {**SPEC, "heloName": "one.example"}}}
    outcome, said = await installed(helm, api_server, admin, values, tmp_path / "1")
    assert outcome.code == 0, outcome.err + said
    values["relay"]["spec"] = SPEC
    outcome, said = await installed(helm, api_server, admin, values, tmp_path / "2", "upgrade")
    assert outcome.code == 0, outcome.err + said
    assert (await admin.get(*RELAY, "relay"))["spec"]["heloName"] == ""
    await helm.did("uninstall", "mailrelay", "--namespace", namespace, "--wait")
    assert await admin.find(*RELAY, "relay")


async def installed(
    helm: Helm,
    api_server: ApiServer,
    admin: Client,
    values: Values,
    folder: Path,
    what: str = "install",
) -> tuple[Outcome, str]:
    """Run Helm, and the Job's pod meanwhile; what either said."""
    arguments = (what, "mailrelay", str(CHART), "--namespace", admin.namespace)
    running = asyncio.create_task(helm.run(*arguments, values=values))
    try:
        said = await worked(api_server, admin, folder)
        outcome = await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await wait_served(admin)
    return outcome, said


async def worked(api_server: ApiServer, admin: Client, folder: Path) -> str:
    """Wait for the Job's pod and do its work; what it said."""
    pods: list[Manifest] = []

    async def is_there() -> bool:
        nonlocal pods
        labels = f"batch.kubernetes.io/job-name={JOB}"
        pods = await admin.list("v1", "Pod", labels=labels)
        return bool(pods)

    await wait_until(is_there, SOON, "the Job's pod is there", interval=0.1)
    (pod,) = pods
    code, said = await ran(pod, api_server, admin, folder)
    status = {"phase": "Failed" if code else "Succeeded"}
    await admin.patch(
        "v1", "Pod", pod["metadata"]["name"], {"status": status}, subresource="status"
    )
    return said


async def ran(pod: Manifest, api_server: ApiServer, admin: Client, folder: Path) -> tuple[int, str]:
    """Run the pod's command with its files and its account."""
    (container,) = pod["spec"]["containers"]
    program, *arguments = container["command"]
    assert program == "python"
    (config,) = (
        each["configMap"]["name"] for each in pod["spec"]["volumes"] if "configMap" in each
    )
    files, account = folder / "first", folder / "account"
    write(files, (await admin.get("v1", "ConfigMap", config))["data"])
    kubeconfig = await api_server.kubeconfig_of(admin.namespace, pod["spec"]["serviceAccountName"])
    server, files_of_account = account_files(kubeconfig)
    write(account, files_of_account)
    host, _, port = server.removeprefix("https://").rpartition(":")
    environment = {
        "PATH": os.environ["PATH"],
        "ACCOUNT": str(account),
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
    }
    done = await command.run(
        sys.executable,
        *(each.replace("/first/", f"{files}/") for each in arguments),
        environ=environment,
        limit=180,
    )
    return done.code, done.stdout + done.stderr


def account_files(kubeconfig: Path) -> tuple[str, dict[str, str]]:
    """The server, and the files of an account as a pod has them."""
    read = yaml.safe_load(kubeconfig.read_text())
    cluster = read["clusters"][0]["cluster"]
    authority = Path(cluster["certificate-authority"]).read_text()
    token = read["users"][0]["user"]["token"]
    return cluster["server"], {"token": token, "ca.crt": authority}


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
