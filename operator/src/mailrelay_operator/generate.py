"""What a relay needs and nobody gave: authority, certificate, user, token, keys. Random, not pure.

Only what is missing, damaged or about to end is made; everything else in a Secret stays. What comes
out are whole Secrets to be written. Each is made only when the resource names no other one.

| Secret | Keys | For |
| --- | --- | --- |
| `<name>-smtp` | `username`, `password`, `users` (the file that ingress reads) | clients |
| `<name>-ca` | `tls.crt`, `tls.key`, `ca.crt` | the operator; clients trust `ca.crt` |
| `<name>-tls` | `tls.crt`, `tls.key`, `ca.crt` | ingress |
| `<name>-http-token` | `token` | the monitor, and who asks it |
| `<name>-nats-<role>` | `seed-a`, `seed-b`, `slot` | one role at NATS (`key_slots`) |
| `<name>-nats-route` | `password`, `routes.conf` | the servers of a NATS cluster |
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mailrelay.config.users import hash_password, name_fault, password_fault
from mailrelay.queue.nkey import new_seed
from mailrelay.queue.rights import Role
from mailrelay_operator.certificates import (
    Pair,
    is_good_authority,
    is_good_certificate,
    new_authority,
    new_certificate,
    split,
    trusted,
)
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.desired.nats import ROUTES_KEY, cluster_section
from mailrelay_operator.key_slots import ASKED, IN_USE, NEW_SPARE, Slot, Step, key_slots
from mailrelay_operator.resource.relay import Relay

USER: Final = "mailrelay"
OPAQUE: Final = "Opaque"
TLS: Final = "kubernetes.io/tls"
# Nobody watches over the system account in a cluster: pods are probed over HTTP.
ROLES: Final = (Role.ADMIN, Role.INGRESS, Role.SENDER, Role.MONITOR)
_BYTES: Final = 24  # 192 bits, 32 characters: what a token needs at least
_CHECK: Final = "users-check"  # whether `users` is of this name and password

Data = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class GeneratedSecret:
    """A Secret to be written, whole."""

    name: str
    type: str
    data: Data = field(repr=False)


def generate(
    relay: Relay, found: Mapping[str, Data], now: dt.datetime
) -> tuple[GeneratedSecret, ...]:
    """Return the Secrets that are missing or to be changed; none when all is well.

    `found` has the data of the relay's own Secrets that exist, by name.
    """
    return tuple(
        secret
        for secret in _wanted(relay, found, now)
        if dict(secret.data) != dict(found.get(secret.name, {}))
    )


def generated_names(relay: Relay) -> tuple[str, ...]:
    """Return the names of all Secrets that the operator makes for this relay."""
    names = ChildNames(relay.name)
    wanted = []
    if relay.users_secret == names.smtp_secret:
        wanted.append(names.smtp_secret)
    if relay.tls_secret == names.tls_secret:
        wanted += [names.ca_secret, names.tls_secret]
    if relay.token_secret == names.token_secret:
        wanted.append(names.token_secret)
    if relay.spec.queue.is_own:
        wanted += [names.key_secret(role) for role in ROLES]
        if relay.spec.queue.replicas > 1:
            wanted.append(names.route_secret)
    return tuple(wanted)


def take_step(data: Data, step: Step, asked: str) -> dict[str, bytes]:
    """Return a role's Secret after a step of its key's replacement.

    Raises ValueError when the Secret cannot be read.
    """
    slots = key_slots(data)
    if slots is None:
        raise ValueError("no NKey seed in the slot in use")
    changed = dict(data)
    free = slots.in_use.other
    match step:
        case Step.BEGIN:
            changed |= {
                free.seed_key: new_seed().encode(),
                NEW_SPARE: b"yes",
                ASKED: asked.encode(),
            }
        case Step.SWITCH:
            changed[IN_USE] = free.value.encode()
            changed.pop(NEW_SPARE, None)
        case Step.END:
            changed.pop(free.seed_key, None)
    return changed


def certificate_names(relay: Relay) -> tuple[str, ...]:
    """Return the DNS names of the listener's certificate: people's own first, then the Service's.

    Kubernetes' default domain stands among them: a client may use the full name.
    """
    service = f"{ChildNames(relay.name).of(Component.INGRESS)}"
    inside = f"{service}.{relay.namespace}.svc"
    all_names = (
        *((relay.spec.host_name,) if relay.spec.host_name else ()),
        *(inside, f"{inside}.cluster.local", f"{service}.{relay.namespace}", service),
    )
    return tuple(dict.fromkeys(all_names))


def _wanted(relay: Relay, found: Mapping[str, Data], now: dt.datetime) -> Iterator[GeneratedSecret]:
    names = ChildNames(relay.name)
    wanted = generated_names(relay)
    if names.smtp_secret in wanted:
        yield GeneratedSecret(names.smtp_secret, OPAQUE, _user(found.get(names.smtp_secret, {})))
    if names.tls_secret in wanted:
        yield from _certificate(relay, names, found, now)
    if names.token_secret in wanted:
        yield GeneratedSecret(names.token_secret, OPAQUE, _token(found.get(names.token_secret, {})))
    for role in ROLES:
        name = names.key_secret(role)
        if name in wanted:
            yield GeneratedSecret(name, OPAQUE, _key(found.get(name, {})))
    if names.route_secret in wanted:
        name = names.route_secret
        yield GeneratedSecret(name, OPAQUE, _route(relay, found.get(name, {})))


def _user(found: Data) -> Data:
    """Keep name and password, which people may change; the file of users follows them."""
    name = found.get("username") or USER.encode()
    password = found.get("password") or secrets.token_urlsafe(_BYTES).encode()
    users = found.get("users", b"")
    if found.get(_CHECK) == _check(name, password, users):
        return found
    name_text, password_text = name.decode("utf-8", "replace"), password.decode("utf-8", "replace")
    if name_fault(name_text) or password_fault(password_text):
        # Not for us to mend: what ingress had before stays in force there, and its log says why.
        return found
    users = f"{name_text}:{hash_password(password_text)}\n".encode()
    changed = {"username": name, "password": password, "users": users}
    return {**found, **changed, _CHECK: _check(name, password, users)}


def _check(name: bytes, password: bytes, users: bytes) -> bytes:
    """Return a digest of the three; it lies beside the password, and no pod mounts it."""
    whole = hashlib.sha256()
    for part in (name, password, users):
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest().encode()


def _certificate(
    relay: Relay, names: ChildNames, found: Mapping[str, Data], now: dt.datetime
) -> Iterator[GeneratedSecret]:
    old = found.get(names.ca_secret, {})
    authority = _pair(old)
    if not is_good_authority(authority, now):
        authority = new_authority(f"{relay.namespace}/{relay.name}", now)
    bundle = trusted([authority.certificate, *split(old.get("ca.crt", b""))], now)
    yield GeneratedSecret(names.ca_secret, TLS, _data(authority, bundle))
    certificate = _pair(found.get(names.tls_secret, {}))
    wanted_names = certificate_names(relay)
    if not is_good_certificate(certificate, authority, wanted_names, now):
        certificate = new_certificate(authority, wanted_names, now)
    yield GeneratedSecret(names.tls_secret, TLS, _data(certificate, bundle))


def _token(found: Data) -> Data:
    return found if found.get("token") else {"token": secrets.token_urlsafe(_BYTES).encode()}


def _key(found: Data) -> Data:
    if key_slots(found) is not None:
        return found
    return {Slot.A.seed_key: new_seed().encode(), IN_USE: Slot.A.value.encode()}


def _route(relay: Relay, found: Data) -> Data:
    password = found.get("password") or secrets.token_urlsafe(_BYTES).encode()
    section = cluster_section(relay, password.decode("ascii", "replace"))
    return {"password": password, ROUTES_KEY: (json.dumps(section, indent=2) + "\n").encode()}


def _pair(data: Data) -> Pair:
    return Pair(data.get("tls.crt", b""), data.get("tls.key", b""))


def _data(pair: Pair, bundle: bytes) -> Data:
    return {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": bundle}
