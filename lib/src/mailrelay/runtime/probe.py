"""A process's own small HTTP face: /metrics for Prometheus, /healthz and /readyz for probes.

In a thread of its own, so that a probe tells of a stuck event loop instead of being stuck with
it: `healthz` fails when the loop has not beaten for a while.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mailrelay.runtime.addresses import EVERY

_BEAT_SECONDS = 5.0
_STUCK_SECONDS = 30.0


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the base's name
        """Probes come every few seconds: not worth a line."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _ServerOfIpv6(_Server):
    address_family = socket.AF_INET6


class _ServerOfBoth(_ServerOfIpv6):
    def server_bind(self) -> None:
        """Take IPv4 on the same socket, whatever the machine's default is."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Readiness(Collector):
    """What /readyz would say at this moment, for Prometheus."""

    def __init__(self, unready_reason: Callable[[], str]) -> None:
        self._unready_reason = unready_reason

    def collect(self) -> Iterator[Metric]:
        """Return the metric."""
        yield GaugeMetricFamily(
            "mailrelay_ready",
            "1 while the process's /readyz says yes, 0 while it says no.",
            0 if self._unready_reason() else 1,
        )


class Probe:
    """Serves the three paths on `host:port` (`[host]:port` of IPv6) from `start` to `close`.

    `*:port` is every address, of both families where the machine has both.
    """

    def __init__(
        self,
        address: str,
        unready_reason: Callable[[], str],
        registry: CollectorRegistry = REGISTRY,
        *,
        unhealthy_reason: Callable[[], str] = lambda: "",
    ) -> None:
        """`unready_reason` returns an empty string when the process can do its work.

        `unhealthy_reason` returns one while nothing but a restart would help.
        """
        host, _, port = address.rpartition(":")
        host, server = _server_on(host.strip("[]"))
        self._beat_at = time.monotonic()
        self._unready_reason = unready_reason
        self._unhealthy_reason = unhealthy_reason
        self._registry = registry
        self._readiness = _Readiness(unready_reason)
        registry.register(self._readiness)
        self._metrics = make_wsgi_app(registry)
        self._server = make_server(host, int(port), self._answer, server, _Quiet)

    @property
    def port(self) -> int:
        """The port; the kernel's choice when the address named 0."""
        return int(self._server.server_port)

    def start(self) -> None:
        """Serve in a daemon thread."""
        threading.Thread(target=self._server.serve_forever, name="probe", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._registry.unregister(self._readiness)

    async def beat(self) -> None:
        """Show until cancelled that the event loop runs."""
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401 — WSGI's callable
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path == "/healthz":
            silent = time.monotonic() - self._beat_at
            stuck = f"event loop silent for {silent:.0f} s" if silent > _STUCK_SECONDS else ""
            reason = stuck or self._unhealthy_reason()
        elif path == "/readyz":
            reason = self._unready_reason()
        else:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"not found\n"]
        start_response(
            "503 Service Unavailable" if reason else "200 OK", [("Content-Type", "text/plain")]
        )
        return [(reason or "ok").encode() + b"\n"]


def start_probe(address: str, unready_reason: Callable[[], str]) -> Probe | None:
    """Serve a probe on `address`, or nothing when the address is empty."""
    if not address:
        return None
    probe = Probe(address, unready_reason)
    probe.start()
    return probe


def _server_on(host: str) -> tuple[str, type[_Server]]:
    if host == EVERY:
        both = socket.has_dualstack_ipv6()
        return ("::", _ServerOfBoth) if both else ("0.0.0.0", _Server)  # noqa: S104 — as was asked
    return host, _ServerOfIpv6 if ":" in host else _Server
