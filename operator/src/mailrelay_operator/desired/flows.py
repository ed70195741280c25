"""Who talks to whom in a cluster: one table, of which NetworkPolicies and docs/flow.md are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from mailrelay_operator.desired.names import Component
from mailrelay_operator.desired.nats import CLIENT_PORT, ROUTE_PORT
from mailrelay_operator.desired.nats import PROBE_PORT as NATS_PROBE_PORT
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.relay import Relay, ResourceError

_DNS_PORT: Final = 53
_HTTP_PORT: Final = 80
_SCHEME_PORTS: Final = {"http": _HTTP_PORT, "https": 443}


class Other(Enum):
    """Who is no part of the relay."""

    CLIENTS = "clients"
    SMART_HOSTS = "smart hosts"
    NATS_ELSEWHERE = "the NATS of `queue.url`"
    NAME_SERVER = "name server"
    OPERATOR = "operator"
    WATCHERS = "Prometheus, people"
    KUBELET = "kubelet"
    COLLECTOR = "collector of `tracing.endpoint`"


Party = Component | Other
Ports = tuple[int, ...]

_SERVICES: Final = (Component.INGRESS, Component.SENDER, Component.MONITOR)
TRACED: Final = (Component.INGRESS, Component.SENDER)  # whose work is spans
_OF_QUEUE: Final = (*_SERVICES, Component.STREAMS)


def _always(_: Relay) -> bool:
    return True


def _has_own_nats(relay: Relay) -> bool:
    return relay.spec.queue.is_own


@dataclass(frozen=True, slots=True)
class Flow:
    """Connections from each of the sources to each of the targets."""

    sources: tuple[Party, ...]
    targets: tuple[Party, ...]
    ports: Callable[[Relay], Ports]  # of the target's pods
    port_words: str
    protocol: str
    why: str
    holds: Callable[[Relay], bool] = _always
    transports: tuple[str, ...] = ("TCP",)


def _fixed(*ports: int) -> Callable[[Relay], Ports]:
    return lambda _: ports


def _smart_host_ports(relay: Relay) -> Ports:
    hosts = (host for route in relay.spec.routes for host in route.smart_hosts)
    return tuple(sorted({host.port_or_default for host in hosts}))


def _collector_ports(relay: Relay) -> Ports:
    url = urlsplit(relay.spec.tracing.endpoint if relay.spec.tracing else "")
    try:
        return (url.port or _SCHEME_PORTS.get(url.scheme, _HTTP_PORT),)
    except ValueError as error:
        raise ResourceError([f"spec.tracing.endpoint: {error}"]) from error


def _nats_elsewhere_ports(relay: Relay) -> Ports:
    urls = (relay.spec.queue.url or "").split(",")
    try:
        return tuple(sorted({urlsplit(url.strip()).port or CLIENT_PORT for url in urls}))
    except ValueError as error:
        raise ResourceError([f"spec.queue.url: {error}"]) from error


FLOWS: Final = (
    Flow(
        (Other.CLIENTS,),
        (Component.INGRESS,),
        _fixed(paths.SMTP_PORT),
        f"{paths.SMTP_PORT}; of the Service `ingress.port` (587)",
        "SMTP, STARTTLS",
        "mail comes in",
    ),
    Flow(
        (Other.CLIENTS,),
        (Component.INGRESS,),
        _fixed(paths.SMTPS_PORT),
        f"{paths.SMTPS_PORT}; of the Service `ingress.smtpsPort`, when set",
        "SMTP in TLS",
        "the same",
        holds=lambda relay: bool(relay.spec.ingress.smtps_port),
    ),
    Flow(
        (Component.SENDER,),
        (Other.SMART_HOSTS,),
        _smart_host_ports,
        "each smart host's `port`",
        "SMTP; STARTTLS or TLS at once, as `tls` says",
        "mail goes out; none without routes",
        holds=lambda relay: bool(relay.spec.routes),
    ),
    Flow(
        _OF_QUEUE,
        (Component.NATS,),
        _fixed(CLIENT_PORT),
        f"{CLIENT_PORT}",
        "NATS, NKey of the role",
        "the queue; the streams' Job makes and checks the streams",
        holds=_has_own_nats,
    ),
    Flow(
        _OF_QUEUE,
        (Other.NATS_ELSEWHERE,),
        _nats_elsewhere_ports,
        f"as the URL says, otherwise {CLIENT_PORT}",
        "NATS, NKey of the role",
        "the same",
        holds=lambda relay: not _has_own_nats(relay),
    ),
    Flow(
        (Component.NATS,),
        (Component.NATS,),
        _fixed(ROUTE_PORT),
        f"{ROUTE_PORT}",
        "NATS routes, with a password",
        "three servers keep three copies",
        holds=lambda relay: _has_own_nats(relay) and relay.spec.queue.replicas > 1,
    ),
    Flow(
        (Component.MONITOR,),
        (Component.INGRESS,),
        _fixed(paths.SMTP_PORT),
        f"{paths.SMTP_PORT}",
        "SMTP, greeting and QUIT only",
        "`/readyz`",
    ),
    Flow(
        (Other.OPERATOR,),
        (Component.MONITOR,),
        _fixed(paths.HTTP_PORT),
        f"{paths.HTTP_PORT}",
        "HTTP",
        "what is ready to be sent, for scaling; health, for the status",
    ),
    Flow(
        (Other.WATCHERS,),
        (Component.MONITOR,),
        _fixed(paths.HTTP_PORT),
        f"{paths.HTTP_PORT}",
        "HTTP; the token for all but health and metrics",
        "health, metrics, messages, resend",
    ),
    Flow(
        (Other.WATCHERS,),
        _SERVICES,
        _fixed(paths.PROBE_PORT),
        f"{paths.PROBE_PORT}",
        "HTTP",
        "`/metrics` of each pod",
    ),
    Flow(
        TRACED,
        (Other.COLLECTOR,),
        _collector_ports,
        "as the URL says, otherwise 80, of https 443",
        "OTLP over HTTP",
        "spans; none without `tracing`",
        holds=lambda relay: relay.spec.tracing is not None,
    ),
    Flow(
        (Other.KUBELET,),
        (*_SERVICES, Component.NATS),
        _fixed(),  # NetworkPolicy lets a node reach its own pods, whatever it says
        f"{paths.PROBE_PORT}, of NATS {NATS_PROBE_PORT}",
        "HTTP",
        "probes",
    ),
    Flow(
        tuple(Component),
        (Other.NAME_SERVER,),
        _fixed(_DNS_PORT),
        f"{_DNS_PORT}",
        "DNS",
        "the names of NATS, smart hosts and the ingress Service",
        transports=("UDP", "TCP"),
    ),
)

HEADER: Final = ("From", "To", "Port", "Protocol", "Why")
WORDS: Final[Mapping[Party, str]] = {
    **{component: component.value for component in Component},
    **{other: other.value for other in Other},
    Component.STREAMS: "streams' Job",
    Component.NATS: "NATS",
}


def rows() -> tuple[tuple[str, ...], ...]:
    """Return the table as docs/flow.md has it."""
    return tuple(
        (
            _words(flow.sources),
            _words(flow.targets),
            flow.port_words,
            flow.protocol,
            flow.why,
        )
        for flow in FLOWS
    )


def _words(parties: tuple[Party, ...]) -> str:
    return "any pod" if parties == tuple(Component) else ", ".join(map(WORDS.__getitem__, parties))
