"""A process's probe, on the addresses of either family."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from mailrelay.runtime.probe import Probe
from tests.support.ports import free_port


@pytest.mark.parametrize(
    ("host", "asked"),
    [("127.0.0.1", ["127.0.0.1"]), ("[::1]", ["[::1]"]), ("*", ["127.0.0.1", "[::1]"])],
)
def test_a_probe_answers_on_addresses_of_either_family_and_of_both(
    host: str, asked: list[str]
) -> None:
    port = free_port()
    probe = Probe(f"{host}:{port}", lambda: "", CollectorRegistry())
    probe.start()
    try:
        for address in asked:
            for path in ("/healthz", "/readyz", "/metrics"):
                with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=20) as answer:
                    assert answer.status == 200
    finally:
        probe.close()


def test_prometheus_is_told_what_readyz_says() -> None:
    reasons = [""]
    registry = CollectorRegistry()
    probe = Probe(f"127.0.0.1:{free_port()}", lambda: reasons[0], registry)
    probe.start()
    try:
        assert registry.get_sample_value("mailrelay_ready") == 1
        reasons[0] = "queue unreachable"
        assert registry.get_sample_value("mailrelay_ready") == 0
    finally:
        probe.close()
    assert registry.get_sample_value("mailrelay_ready") is None
