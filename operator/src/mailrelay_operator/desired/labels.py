"""The labels by which a relay's children are found, selected and kept apart."""

from __future__ import annotations

from typing import Final

from mailrelay_operator.desired.names import Component

_NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "mailrelay-operator"


def selector(relay: str, component: Component | None = None) -> dict[str, str]:
    """Return the labels that select a component's pods, or all of a relay's; they never change."""
    found = {_NAME: "mailrelay", INSTANCE: relay}
    return found | ({COMPONENT: component.value} if component is not None else {})


def labels(relay: str, component: Component | None = None) -> dict[str, str]:
    """Return the labels of a child."""
    return selector(relay, component) | {
        "app.kubernetes.io/part-of": "mailrelay",
        MANAGED_BY: MANAGER,
    }
