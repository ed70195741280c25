"""The operator's part of dashboard and rules, and the runbooks' kubectl, on a real API server."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from mailrelay_operator.child_kinds import CHILDREN, SECRET
from mailrelay_operator.metrics import OperatorMetrics
from tests.chart.helm import Helm
from tests.operator.operators import operator, relay, wait_condition, wait_made
from tests.prometheus.asked import asked, panels
from tests.prometheus.observed import RULES, rules_at_once
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.kubernetes.programs import find_programs
from tests.support.prometheus import Job, Prometheus
from tests.support.wait import wait_until
from tools.observability.files import DASHBOARDS
from tools.observability.operator_alerts import OPERATOR

pytestmark = [pytest.mark.operator, pytest.mark.timeout(600)]
LIMIT_SECONDS = 120.0
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
NAMESPACE = {"namespace": "ops"}
QUERIES = [expr for row, _, expr in panels() if row.startswith("Operator")]
# No node: nobody has the pods' logs, and a pod has no address. Everything else of the command is
# looked at before that is found out.
OF_PODS = re.compile("does not have a host assigned|has no address|timed out waiting|not running")


def test_the_first_drift_of_its_kind_is_an_increase() -> None:
    registry = CollectorRegistry()
    OperatorMetrics(registry)
    for kind in (*CHILDREN, SECRET):
        for how in ("edited", "deleted", "added"):
            labels = {"kind": kind.kind, "how": how}
            assert registry.get_sample_value("mailrelay_operator_drift_undone_total", labels) == 0


async def test_panels_show_the_operator_and_a_relay_that_is_stopped_is_told(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    async with operator(api_server, namespace, tmp_path / "operator") as running:
        job = Job("operator", {running.address: NAMESPACE})
        prometheus = Prometheus(tmp_path, [job], [rules_at_once(tmp_path)])
        try:
            await prometheus.start()
            await prometheus.wait_scraped()
            await admin.apply(relay())
            await wait_made(admin)
            await admin.patch("apps/v1", "Deployment", "relay-sender", {"spec": {"paused": True}})
            missing = {"routes": [_route_with_secret("nobody-made-it")]}
            await admin.apply(relay("stopped", **missing))
            await wait_condition(admin, "Ready", "False", "SecretMissing", "stopped")
            for expr in QUERIES:
                await prometheus.wait_numbers(asked(expr, {"relay": "any"}))
            assert await prometheus.rule_faults() == {}

            async def is_told() -> bool:
                found = {each["alertname"] for each in await prometheus.alerts()}
                of_operator = {alert.full_name for alert in OPERATOR.alerts}
                assert found & of_operator == {"MailRelayRelayStopped"}, found
                return True

            await wait_until(is_told, LIMIT_SECONDS, "the stopped relay is told", interval=0.5)
        finally:
            await prometheus.stop()


def _route_with_secret(name: str) -> dict[str, object]:
    return {"name": "all", "smartHosts": [{"host": "smtp.test", "credentialsSecretName": name}]}


async def test_the_chart_brings_rules_and_dashboards_along_as_they_stand(tmp_path: Path) -> None:
    monitoring = {"prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}}
    rendered = await Helm(tmp_path).rendered("mail", {"monitoring": monitoring})
    (rules,) = (each for each in rendered if each["kind"] == "PrometheusRule")
    assert rules["spec"] == yaml.safe_load(RULES.read_text())
    dashboards = [
        json.loads(text)
        for each in rendered
        if each["kind"] == "ConfigMap"
        for name, text in each["data"].items()
        if name.endswith(".json")
    ]
    assert dashboards == [json.loads(each.text()) for each in DASHBOARDS]


def kubectl_commands() -> list[str]:
    """Each line of a block for clusters, but those that set the test's own names."""
    lines = [
        line
        for path in sorted(RUNBOOKS.glob("*.md"))
        for block in re.findall(
            r"^```sh cluster\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
        )
        for line in block.splitlines()
    ]
    return [line for line in dict.fromkeys(lines) if "kubectl" in line]


async def test_the_runbooks_kubectl_commands_work_as_they_stand(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    programs = find_programs(["kubectl"], print)
    async with operator(api_server, namespace, tmp_path / "operator"):
        await admin.apply(relay())
        await wait_made(admin)
        environment = os.environ | {
            "PATH": f"{programs['kubectl'].parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(api_server.kubeconfig),
            "NAMESPACE": namespace,
            "OPERATOR_NAMESPACE": namespace,
            "NAME": "relay",
        }
        commands = kubectl_commands()
        assert len(commands) > 10
        for command in commands:
            code, said = await _ran(command, environment)
            assert code == 0 or OF_PODS.search(said), f"{command}\n{said}"
            assert said or " logs " in command, f"{command} says nothing"


async def _ran(command: str, environment: dict[str, str]) -> tuple[int, str]:
    if command.endswith("&"):
        command = f"timeout 5 {command.removesuffix('&')}"  # it would stay
    if command.startswith("export TOKEN="):
        command += '; test "${#TOKEN}" -ge 32 && echo "a token"'
    process = await asyncio.create_subprocess_exec(
        *("bash", "-u", "-c", command),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
    return process.returncode or 0, said.decode()
