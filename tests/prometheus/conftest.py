"""One relay and one Prometheus serve all tests that only look."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.prometheus.observed import Observed, observed_relay


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def observed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Observed]:
    async with observed_relay(tmp_path_factory.mktemp("observed")) as found:
        yield found
