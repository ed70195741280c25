"""A process's probe, on the addresses of either family."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from mailrelay.runtime.probe import Probe
from tests.support.ports import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_probe_answers_on_an_address_of_either_family(host: str) -> None:
    address = f"{host}:{free_port()}"
    probe = Probe(address, lambda: "", CollectorRegistry())
    probe.start()
    try:
        for path in ("/healthz", "/readyz", "/metrics"):
            with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
                assert answer.status == 200
    finally:
        probe.close()
