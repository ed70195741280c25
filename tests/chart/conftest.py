"""The chart is tried on a control plane of its own, in which nobody has installed anything.

It installs what a cluster has once (a definition, cluster roles), so its tests do not share the
operator's tests' control plane; the tests of one worker follow each other on one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chart.helm import Helm
from tests.chart.left import remove_everything
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer, chosen_kubeconfig, open_api_server
from tests.support.kubernetes.control_plane import ControlPlane
from tests.support.kubernetes.definitions import find_definitions
from tests.support.kubernetes.programs import CONTROL_PLANE, find_programs

# The first test of a worker waits for the control plane, too, on a machine that may be busy.
LIMIT_SECONDS = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("operator") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT_SECONDS))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The processes, with what other projects' controllers would have installed."""
    if chosen_kubeconfig():
        pytest.skip("these tests remove every relay, and the cluster that was chosen is somebody's")
    folder = tmp_path_factory.mktemp("kubernetes") / "control-plane"
    plane = ControlPlane(find_programs(CONTROL_PLANE, print), folder)
    kinds = ("Certificate", "Issuer", "PodMonitor", "PrometheusRule")
    try:
        asyncio.run(plane.start(path.read_text() for path in find_definitions(kinds, print)))
        yield plane
    finally:
        plane.kill()


@pytest.fixture
async def api_server(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server in which nothing of MailRelay is; what a test leaves is removed."""
    async with open_api_server(control_plane, tmp_path) as server:
        yield server
        await remove_everything(await server.admin())


@pytest.fixture
async def namespace(api_server: ApiServer) -> str:
    """A namespace that is this test's alone, under the `restricted` Pod Security Standard."""
    return await api_server.new_namespace()


@pytest.fixture
async def admin(api_server: ApiServer, namespace: str) -> Client:
    """May do everything; what names no namespace goes to the test's own."""
    return await api_server.admin(namespace)


@pytest.fixture
def helm(api_server: ApiServer, tmp_path: Path) -> Helm:
    """Helm, as an administrator of the cluster."""
    return Helm(tmp_path / "helm", api_server.kubeconfig)


@pytest.fixture
def renderer(tmp_path: Path) -> Helm:
    """Helm without any cluster."""
    return Helm(tmp_path / "helm")
