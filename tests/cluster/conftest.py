from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.cluster import other_version, report
from tests.cluster.clusters import (
    Cluster,
    Images,
    LeftOutError,
    OccupiedError,
    OwnCluster,
    SomebodysCluster,
)
from tests.cluster.install import IMAGES, VERSION, Release
from tests.cluster.relays import NAMESPACE, make_relay, wait_ready
from tests.cluster.sinks import DEFERRING, WILLING, Sink, start_sink
from tests.compose.images import TARGETS, ImageError, build_images
from tests.support.command import ROOT
from tests.support.kubernetes.client import Client, open_client
from tests.support.kubernetes.cluster import VARIABLE, chosen_kubeconfig
from tests.support.kubernetes.definitions import find_definitions
from tests.support.kubernetes.node_cluster import NodeCluster, scratch_folder

LIMIT_SECONDS = 900  # the first test waits for the cluster, too
# Kinds of Prometheus' operator that are there before ours starts: it looks for them each 5 minutes.
ADD_ONS = ("PodMonitor", "PrometheusRule")
BUILT = tuple(target for target in TARGETS if target != "all-in-one")

LOGS_VARIABLE = "MAILRELAY_CLUSTER_LOGS"  # a folder for the logs of what failed

_failed: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT_SECONDS))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the first test: no test's time limit is meant for that."""
    wanted = any(item.get_closest_marker("cluster") for item in session.items)
    if not wanted or session.config.option.collectonly or chosen_kubeconfig() is not None:
        return
    if scratch_folder() is None:
        pytest.exit(
            f"tests with pods run by `make test-cluster`, or in a cluster that {VARIABLE} names",
            returncode=1,
        )
    try:
        report.lines.extend(build_images(BUILT))
        report.lines.extend(other_version.build(BUILT))
    except ImageError as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with the operator installed."""
    made: Cluster | None = None
    try:
        try:
            made = asyncio.run(_somebodys() if chosen_kubeconfig() else _own())
            asyncio.run(_install(made))
        except OccupiedError as error:
            pytest.exit(str(error), returncode=1)
        except BaseException:
            _failed.append("the start of the cluster")
            raise
        yield made
    finally:
        if made is not None:
            asyncio.run(_end(made))


async def _own() -> Cluster:
    scratch = scratch_folder()
    assert scratch is not None
    made = NodeCluster(scratch)
    cluster = OwnCluster(made, Images("", VERSION, other_version.TAG))
    try:
        await made.start(
            [path.read_text() for path in find_definitions(ADD_ONS, print)],
            [*(TARGETS[each] for each in BUILT), *other_version.names(BUILT)],
        )
    except BaseException:
        await _end(cluster)
        raise
    for name in IMAGES:
        made.node.tag_image(f"mailrelay-{name}", VERSION)
    report.lines.append(
        ", ".join(f"{part} after {seconds:.1f} s" for part, seconds in made.seconds.items())
    )
    return cluster


async def _somebodys() -> Cluster:
    kubeconfig = chosen_kubeconfig()
    assert kubeconfig is not None
    scratch = Path(tempfile.mkdtemp(prefix="mailrelay-cluster-"))
    cluster = SomebodysCluster(scratch, kubeconfig, VERSION)
    await cluster.check()
    report.lines.append(f"in somebody's cluster, that of {kubeconfig}")
    return cluster


async def _install(cluster: Cluster) -> None:
    began = time.monotonic()
    async with open_client(cluster.kubeconfig) as client:
        await Release(cluster).install(client)
    report.lines.append(f"helm install to a ready operator: {time.monotonic() - began:.1f} s")


async def _end(cluster: Cluster) -> None:
    try:
        if _failed:
            kept = Path(os.environ.get(LOGS_VARIABLE) or ROOT / ".cluster-logs")
            await cluster.keep_logs(kept / time.strftime("%Y%m%d-%H%M%S"))
            report.lines.append(f"failed: {', '.join(_failed)}; the logs of all pods are in {kept}")
    finally:
        await cluster.end()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.append(report.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What cannot be done in somebody's cluster is left out, and the table says so."""
    try:
        return (yield)
    except LeftOutError as error:
        report.left_out(item.name, str(error))
        pytest.skip(str(error))


@pytest.fixture
def release(cluster: Cluster) -> Release:
    """The chart's release, which is installed."""
    return Release(cluster)


@pytest.fixture
async def admin(cluster: Cluster) -> AsyncIterator[Client]:
    """May do everything."""
    async with open_client(cluster.kubeconfig) as client:
        yield client


@pytest.fixture(scope="session")
def sink(cluster: Cluster) -> Iterator[Sink]:
    """Takes mail over TLS from who logs in, a twentieth of it at the second attempt."""
    yield from _sink(cluster, DEFERRING)


@pytest.fixture(scope="session")
def willing_sink(cluster: Cluster) -> Iterator[Sink]:
    """Takes all mail at once."""
    yield from _sink(cluster, WILLING)


def _sink(cluster: Cluster, name: str) -> Iterator[Sink]:
    async def start() -> Sink:
        async with open_client(cluster.kubeconfig) as client:
            return await start_sink(cluster, client, name)

    started = asyncio.run(start())
    yield started
    started.shared.end()


@pytest.fixture(scope="session")
def relay(cluster: Cluster, sink: Sink) -> None:
    """The relay that everything happens to; deferred mail is tried again soon."""

    async def make() -> None:
        async with open_client(cluster.kubeconfig) as client:
            sender = {"batchSize": 5, "retry": {"initialIntervalSeconds": 2}}
            await make_relay(client, NAMESPACE, sink, sender=sender)
            await wait_ready(client, NAMESPACE)

    asyncio.run(make())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures."""
    if shown := list(report.shown()):
        terminalreporter.section("a cluster with real pods")
        for line in shown:
            terminalreporter.write_line(line)
