"""Network policy: which pods and networks reach the relay, and where it may connect to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mailrelay_operator.resource.schema import Cidr, LabelName, ListType, Section

Namespaces = Annotated[tuple[LabelName, ...], Field(max_length=64), ListType("set")]
Networks = Annotated[tuple[Cidr, ...], Field(max_length=64), ListType("set")]


class NetworkPolicy(Section):
    """NetworkPolicies of the relay's pods; they hold where the cluster's network enforces them.

    The relay's parts reach each other and nobody else's pods reach the queue, whatever stands here.
    """

    enabled: bool = Field(default=True, description="Whether they are made.")
    client_namespaces: Namespaces = Field(
        default=(),
        description="Namespaces whose pods may send mail. With clientNetworks empty too: everybody "
        "who reaches the Service.",
    )
    client_networks: Networks = Field(
        default=(), description="Networks, such as those outside the cluster, that may send mail."
    )
    monitor_namespaces: Namespaces = Field(
        default=(),
        description="Namespaces whose pods may ask the monitor and read metrics, such as "
        "Prometheus'. Empty: every namespace.",
    )
    upstream_networks: Networks = Field(
        default=(),
        description="Networks that the routes' smart hosts are in. Empty: everywhere, at the "
        "smart hosts' ports.",
    )
