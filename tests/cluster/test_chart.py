"""What the chart brings to try itself with."""

from __future__ import annotations

import pytest

from tests.cluster.install import Release

pytestmark = pytest.mark.cluster


async def test_helm_test_sends_a_message_through_a_relay_of_its_own(release: Release) -> None:
    said = await release.test()
    assert "Succeeded" in said
