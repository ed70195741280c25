from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer, chosen_kubeconfig, open_api_server
from tests.support.kubernetes.control_plane import ControlPlane
from tests.support.kubernetes.programs import CONTROL_PLANE, find_programs

ROOT = Path(__file__).parents[2]

# The first test of a worker waits for the control plane too, on a machine that may be busy.
LIMIT_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("operator") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT_SECONDS))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane | None]:
    """The processes, which a worker's tests share; None where a cluster was chosen."""
    if chosen_kubeconfig():
        yield None
        return
    folder = tmp_path_factory.mktemp("kubernetes") / "control-plane"
    plane = ControlPlane(find_programs(CONTROL_PLANE, print), folder)
    definitions = sorted((ROOT / "operator" / "crd").glob("*.yaml"))
    try:
        asyncio.run(plane.start(path.read_text() for path in definitions))
        yield plane
    finally:
        plane.kill()


@pytest.fixture
async def api_server(
    control_plane: ControlPlane | None, tmp_path: Path
) -> AsyncIterator[ApiServer]:
    """An API server that runs when the test begins; the test may stop it."""
    async with open_api_server(control_plane, tmp_path) as server:
        yield server


@pytest.fixture
async def own_api_server(api_server: ApiServer) -> ApiServer:
    """An API server that may be stopped: the test is skipped where it is somebody's."""
    _ = api_server.plane  # skips
    return api_server


@pytest.fixture
async def namespace(api_server: ApiServer) -> str:
    """A namespace that is this test's alone."""
    return await api_server.new_namespace()


@pytest.fixture
async def admin(api_server: ApiServer, namespace: str) -> Client:
    """May do everything; what names no namespace goes to the test's own."""
    return await api_server.admin(namespace)
