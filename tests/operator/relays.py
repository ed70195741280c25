"""Resources to try things with, and what `desired` needs beside them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from mailrelay.queue.rights import Role
from mailrelay_operator.desired.inputs import Images, Inputs
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.generate import ROLES
from mailrelay_operator.key_slots import KeySlots, Slot
from mailrelay_operator.resource.relay import Relay, read_relay

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name.removesuffix(".relay.yaml") for path in GOLDEN.glob("*.relay.yaml"))
NAMES = ("ingress", "sender", "monitor", "nats", "tools")
ROUTES = [{"name": "default", "smartHosts": [{"host": "smtp.example.com"}]}]


def body(spec: dict[str, Any] | None = None, name: str = "mail") -> dict[str, Any]:
    """A resource as the API server shows it; with one smart host unless the spec says more."""
    return {
        "apiVersion": "mailrelay.dev/v1alpha1",
        "kind": "MailRelay",
        "metadata": {
            "name": name,
            "namespace": "apps",
            "uid": "6a8f2c9e-0000-4000-8000-000000000001",
            "generation": 1,
        },
        "spec": {"routes": copy.deepcopy(ROUTES), **(spec or {})},
    }


def relay(spec: dict[str, Any] | None = None, name: str = "mail") -> Relay:
    return read_relay(body(spec, name))


def case(name: str) -> Relay:
    """The resource of a golden file."""
    found = yaml.safe_load((GOLDEN / f"{name}.relay.yaml").read_text())
    found["metadata"] |= body()["metadata"] | {"name": found["metadata"]["name"]}
    return read_relay(found)


def public_key(role: Role, slot: Slot = Slot.A) -> str:
    """What looks like a public key, and is the same each time."""
    return f"U{role.value.upper()}{slot.value.upper()}".ljust(56, "7")


def inputs(**changes: Any) -> Inputs:  # noqa: ANN401 — any field of Inputs
    given: dict[str, Any] = {
        "images": Images(*(f"registry.example/mailrelay-{name}:0.1.0" for name in NAMES)),
        "operator_namespace": "mailrelay-system",
        "keys": {role: KeySlots(Slot.A, {Slot.A: public_key(role)}) for role in ROLES},
        "digests": {"mail-nats-route": "route-1"},
        "has_pod_monitors": True,
        "has_certificates": True,
    }
    return Inputs(**{**given, **changes})


def child(children: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    """The one child of that kind and name."""
    (found,) = (
        each for each in children if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def pod_specs(children: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Each pod's spec, by component."""
    return {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]["template"]["spec"]
        for each in children
        if "template" in each.get("spec", {})
    }
