"""The monitor: numbers, failed and captured mail, HTTP."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mailrelay.config.defaults import CONTAINER
from mailrelay_operator.resource.option import option
from mailrelay_operator.resource.pods import ExtraStrings, Pods
from mailrelay_operator.resource.queue import MonitorStorage
from mailrelay_operator.resource.schema import Cidr, ListType, ObjectName, Section


class PodMonitor(Section):
    """How Prometheus' operator finds the relay's pods."""

    enabled: bool = Field(
        default=True,
        description="Whether PodMonitors are made, where the cluster has such objects.",
    )
    labels: ExtraStrings | None = Field(
        default=None, description="Labels of the PodMonitors, by which a Prometheus selects them."
    )


class Monitor(Section):
    """Numbers, failed and captured mail, HTTP."""

    storage: MonitorStorage = Field(
        default=MonitorStorage(), description="The volume of the monitor's index."
    )
    allowed_networks: Annotated[tuple[Cidr, ...], ListType("set")] = option(
        "http.allowedNetworks",
        default=CONTAINER.tree["http"]["allowedNetworks"],
        max_length=64,
        description="Clients that are answered over HTTP: `/healthz`, `/readyz`, `/health` and "
        "`/metrics` without the token, everything else with it. By default private networks.",
    )
    token_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with the key `token`: what clients show as `Authorization: Bearer …`, "
        "32 characters or more. Not set: the operator makes one, in the Secret "
        "`<name>-http-token`.",
    )
    pod_monitor: PodMonitor = Field(
        default=PodMonitor(), description="How Prometheus' operator finds the relay's pods."
    )
    pods: Pods = Field(default=Pods(), description="The monitor's pod.")
