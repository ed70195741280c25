from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.cluster import report
from tests.cluster.install import ROOT, Release
from tests.cluster.mail import DEFERRED, DEFERRING, WILLING, Sink, start_sink
from tests.cluster.relays import NAMESPACE, make_relay, wait_ready
from tests.compose.images import TARGETS, ImageError, build_images
from tests.support.kubernetes.client import Client, open_client
from tests.support.kubernetes.node_cluster import NodeCluster, scratch_folder

LIMIT_SECONDS = 900  # the first test waits for the cluster, too
IMAGES = tuple(target for target in TARGETS if target != "all-in-one")

LOGS_VARIABLE = "MAILRELAY_CLUSTER_LOGS"  # a folder for the logs of what failed

_failed: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT_SECONDS))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the first test: no test's time limit is meant for that."""
    wanted = any(item.get_closest_marker("cluster") for item in session.items)
    if wanted and not session.config.option.collectonly:
        if scratch_folder() is None:
            pytest.exit("tests with pods run by `make test-cluster`", returncode=1)
        try:
            report.lines.extend(build_images(IMAGES))
        except ImageError as error:
            pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[NodeCluster]:
    """The cluster, with the operator installed."""
    scratch = scratch_folder()
    assert scratch is not None
    made = NodeCluster(scratch)
    try:
        try:
            asyncio.run(_start(made))
        except BaseException:
            _failed.append("the start of the cluster")
            raise
        yield made
    finally:
        if _failed:
            kept = Path(os.environ.get(LOGS_VARIABLE) or ROOT / ".cluster-logs")
            made.keep_logs(kept / time.strftime("%Y%m%d-%H%M%S"))
            report.lines.append(f"failed: {', '.join(_failed)}; the logs of all pods are in {kept}")
        made.kill()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.append(report.nodeid)


async def _start(made: NodeCluster) -> None:
    await made.start(images=[TARGETS[target] for target in IMAGES])
    report.lines.append(
        ", ".join(f"{part} after {seconds:.1f} s" for part, seconds in made.seconds.items())
    )
    began = time.monotonic()
    async with open_client(made.kubeconfig) as client:
        await Release(made).install(client)
    report.lines.append(f"helm install to a ready operator: {time.monotonic() - began:.1f} s")


@pytest.fixture
def release(cluster: NodeCluster) -> Release:
    """The chart's release, which is installed."""
    return Release(cluster)


@pytest.fixture
async def admin(cluster: NodeCluster) -> AsyncIterator[Client]:
    """May do everything."""
    async with open_client(cluster.kubeconfig) as client:
        yield client


@pytest.fixture(scope="session")
def sink(cluster: NodeCluster) -> Sink:
    """Takes mail, a twentieth of it at the second attempt."""
    return asyncio.run(_start_sink(cluster, DEFERRING, DEFERRED))


@pytest.fixture(scope="session")
def willing_sink(cluster: NodeCluster) -> Sink:
    """Takes all mail at once."""
    return asyncio.run(_start_sink(cluster, WILLING, 0.0))


async def _start_sink(cluster: NodeCluster, name: str, deferred: float) -> Sink:
    async with open_client(cluster.kubeconfig) as client:
        return await start_sink(client, cluster.scratch / "mail", name, deferred)


@pytest.fixture(scope="session")
def relay(cluster: NodeCluster, sink: Sink) -> None:
    """The relay that everything happens to; deferred mail is tried again soon."""
    _ = sink  # is there first

    async def make() -> None:
        async with open_client(cluster.kubeconfig) as client:
            sender = {"batchSize": 5, "retry": {"initialIntervalSeconds": 2}}
            await make_relay(client, NAMESPACE, sender=sender)
            await wait_ready(client, NAMESPACE)

    asyncio.run(make())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures."""
    if shown := list(report.shown()):
        terminalreporter.section("a cluster with real pods")
        for line in shown:
            terminalreporter.write_line(line)
