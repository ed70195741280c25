"""One Postfix and one relay in front of it serve most tests; each test has a domain of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from tests.support.policy_service import PolicyService, running_policy
from tests.support.postfix import Postfix, PostfixOptions, running_postfix
from tests.support.relay import Relay, forwarding_to, running_relay

_numbers = count(1)


@pytest.fixture
def domain() -> str:
    return f"d{next(_numbers)}.test"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def policy() -> AsyncIterator[PolicyService]:
    async with running_policy() as service:
        yield service


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postfix(policy: PolicyService) -> AsyncIterator[Postfix]:
    async with running_postfix(PostfixOptions(policy_port=policy.port)) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def relay(tmp_path_factory: pytest.TempPathFactory, postfix: Postfix) -> AsyncIterator[Relay]:
    """A relay that hands everything to `postfix`."""
    folder = tmp_path_factory.mktemp("relay")
    async with running_relay(folder, **forwarding_to(postfix.port)) as running:
        yield running
