"""Where a recipient's mail goes next. Pure.

The most specific entry of all routes decides, whatever their order: a domain itself before those
below a domain, and of these the longest. Then the route that takes all others; then capture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mailrelay.config.smart_hosts import ConfiguredRoute
from mailrelay.mail.address import domain_key, domain_of
from mailrelay.mail.job import Job, Recipient
from mailrelay.mail.next_hop import format_next_hop, parse_next_hop


@dataclass(frozen=True, slots=True)
class Capture:
    """Keep the mail, to be looked at and released: what happens without an upstream."""

    name: str = "capture"
    next_hop: str = "capture"


@dataclass(frozen=True, slots=True)
class SmartHost:
    """A server that takes mail of ours."""

    host: str
    port: int

    @property
    def next_hop(self) -> str:
        """The server as logs and records name it."""
        return format_next_hop(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Forward:
    """Hand the mail to the first of some smart hosts that can be used."""

    name: str
    next_hop: str  # all of them, with commas between


@dataclass(frozen=True, slots=True)
class NamedHop(SmartHost):
    """Hand released mail to the next hop that was named with the release."""

    name: str = "named"


Route = Capture | Forward | NamedHop


@dataclass(frozen=True, slots=True)
class Share:
    """The recipients of a job that have the same route, as a job of their own."""

    route: Route
    job: Job


@dataclass(frozen=True, slots=True)
class Routing:
    """What a configuration says about where mail goes."""

    rest: Capture | Forward = field(default_factory=Capture)  # of all that nobody else takes
    domains: Mapping[str, Forward] = field(default_factory=dict)
    below: Mapping[str, Forward] = field(default_factory=dict)  # by domain, without itself

    @classmethod
    def of(cls, routes: tuple[ConfiguredRoute, ...]) -> Routing:
        """Return what these routes say."""
        rest: Capture | Forward = Capture()
        domains: dict[str, Forward] = {}
        below: dict[str, Forward] = {}
        for route in routes:
            forward = Forward(route.name, ", ".join(host.next_hop for host in route.hosts))
            if route.domains is None:
                rest = forward
            for domain in route.domains or ():
                if domain.startswith("."):
                    below[domain[1:]] = forward
                else:
                    domains[domain] = forward
        return cls(rest, domains, below)

    @property
    def names(self) -> list[str]:
        """The routes' names."""
        routes = (*self.domains.values(), *self.below.values(), self.rest)
        return list(dict.fromkeys(route.name for route in routes))

    @property
    def captures_all(self) -> bool:
        """Whether there is no upstream at all."""
        return isinstance(self.rest, Capture) and not self.domains and not self.below

    def route_of(self, address: str) -> Capture | Forward:
        """Return the route of a recipient."""
        if not self.domains and not self.below:
            return self.rest
        domain = domain_key(domain_of(address))
        exact = self.domains.get(domain)
        if exact is not None:
            return exact
        while self.below and "." in domain:
            domain = domain.partition(".")[2]
            found = self.below.get(domain)
            if found is not None:
                return found
        return self.rest

    def shares(self, job: Job) -> list[Share]:
        """Divide a job by the routes of its recipients; one that needs no division is as it was.

        Released mail whose next hop was named by hand has that one for all.
        """
        if job.release is not None and job.release.next_hop:
            return [Share(NamedHop(*parse_next_hop(job.release.next_hop)), job)]
        by_route: dict[str, tuple[Capture | Forward, list[Recipient]]] = {}
        for recipient in job.recipients:
            route = self.route_of(recipient.address)
            by_route.setdefault(route.name, (route, []))[1].append(recipient)
        if len(by_route) == 1:
            [(route, _)] = by_route.values()
            return [Share(route, job)]
        return [
            Share(route, replace(job, recipients=tuple(recipients)))
            for route, recipients in by_route.values()
        ]
