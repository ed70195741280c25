"""Which Secrets of people's a relay's spec names, and which keys each must have (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mailrelay_operator.conditions import MissingSecret
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.relay import Relay


@dataclass(frozen=True, slots=True)
class Reference:
    """One field that names a Secret."""

    name: str
    keys: tuple[str, ...]
    used_by: str  # the field


def references(relay: Relay) -> tuple[Reference, ...]:
    """Return all references, in the spec's order.

    A Secret that cert-manager is to make is none: it comes after the Certificate.
    """
    spec = relay.spec
    found: list[Reference] = []

    def add(name: str | None, used_by: str, *keys: str) -> None:
        if name is not None:
            found.append(Reference(name, keys, used_by))

    tls = spec.ingress.tls.secret_name
    add(tls, "spec.ingress.tls.secretName", paths.CERTIFICATE_KEY, paths.PRIVATE_KEY_KEY)
    users = spec.security.users_secret_name
    add(users, "spec.security.usersSecretName", paths.USERS_KEY)
    for number, route in enumerate(spec.routes):
        for index, host in enumerate(route.smart_hosts):
            field = f"spec.routes[{number}].smartHosts[{index}]"
            add(host.ca_secret_name, f"{field}.caSecretName", paths.AUTHORITIES_KEY)
            add(
                host.credentials_secret_name,
                f"{field}.credentialsSecretName",
                paths.USERNAME_KEY,
                paths.PASSWORD_KEY,
            )
    add(spec.monitor.token_secret_name, "spec.monitor.tokenSecretName", paths.TOKEN_KEY)
    if spec.queue.credentials is not None:
        for name, value in spec.queue.credentials.model_dump(by_alias=True).items():
            add(value, f"spec.queue.credentials.{name}", paths.SEED_KEY)
    return tuple(found)


def missing(
    wanted: Iterable[Reference], keys_of: Mapping[str, Collection[str] | None]
) -> tuple[MissingSecret, ...]:
    """Return what is not there; `keys_of` has each Secret's keys that have a value, None: none."""
    found = []
    for reference in wanted:
        keys = keys_of.get(reference.name)
        if keys is None:
            found.append(MissingSecret(reference.name, "", reference.used_by))
        else:
            found += [
                MissingSecret(reference.name, key, reference.used_by)
                for key in reference.keys
                if key not in keys
            ]
    return tuple(found)
