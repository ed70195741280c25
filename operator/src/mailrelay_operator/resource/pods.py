"""What people set for the pods of each component: resources, placement, annotations, priority.

The security context is not among it: every pod passes the `restricted` Pod Security Standard.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailrelay_operator.resource.schema import (
    AnyObject,
    ListType,
    ObjectName,
    Quantity,
    Rule,
    Section,
    StringMap,
    Text,
)

# As many as rules over them may cost: processors, memory, ephemeral-storage, and one more.
Amounts = Annotated[dict[str, Quantity], Field(max_length=4)]
_OWN = "!k.startsWith('app.kubernetes.io/') && !k.startsWith('mailrelay.dev/')"
_NOT_OURS = Rule(
    f"self.all(k, {_OWN})",
    "app.kubernetes.io/… and mailrelay.dev/… are the operator's own: it finds its objects by them; "
    "use a prefix of yours",
    reason="FieldValueForbidden",
)
ExtraStrings = Annotated[StringMap, _NOT_OURS]


class Resources(Section):
    """Requests and limits of a container, as in Kubernetes; each amount such as 500m or 512Mi."""

    requests: Amounts | None = Field(
        default=None,
        description="What a pod asks for, by resource (`cpu`, `memory`). What is not named has the "
        "operator's default.",
    )
    limits: Amounts | None = Field(
        default=None,
        description="What a pod may use at most, by resource (`cpu`, `memory`). What is not named "
        "has the operator's default; there is none for `cpu`.",
    )


class Toleration(Section):
    """A taint of nodes that pods put up with, as in Kubernetes."""

    key: Text | None = Field(
        default=None, description="The taint's key; without it every key, with operator Exists."
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="How key and value are compared; Equal when not set."
    )
    value: Text | None = Field(default=None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; without it every effect."
    )
    toleration_seconds: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="How long a pod stays on a node that got the taint (NoExecute)."
    )


class TopologySpread(Section):
    """How pods of one component are spread, as in Kubernetes; the operator adds the selector."""

    topology_key: Annotated[str, Field(min_length=1, max_length=317)] = Field(
        description="Label of nodes whose values are the places, such as "
        "`topology.kubernetes.io/zone`."
    )
    max_skew: int = Field(
        default=1, ge=1, description="How many pods more one place may have than another."
    )
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        default="ScheduleAnyway", description="What happens to a pod that would break it."
    )


class Affinity(Section):
    """Which nodes and neighbours pods like or avoid, as in Kubernetes.

    Handed on as it is: what is wrong in it shows when the pods' Deployment or StatefulSet is
    refused, in the condition Ready.
    """

    node_affinity: AnyObject | None = Field(
        default=None, description="Kubernetes' nodeAffinity (core/v1)."
    )
    pod_affinity: AnyObject | None = Field(
        default=None, description="Kubernetes' podAffinity (core/v1)."
    )
    pod_anti_affinity: AnyObject | None = Field(
        default=None, description="Kubernetes' podAntiAffinity (core/v1)."
    )


class Pods(Section):
    """The pods of one component."""

    resources: Resources | None = Field(
        default=None, description="Requests and limits of the component's container."
    )
    node_selector: StringMap | None = Field(
        default=None, description="Labels that a node must have."
    )
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32), ListType("atomic")] = (
        Field(default=(), description="Taints that the pods put up with.")
    )
    affinity: Affinity | None = Field(
        default=None, description="Which nodes and neighbours the pods like or avoid."
    )
    topology_spread_constraints: Annotated[
        tuple[TopologySpread, ...],
        Field(max_length=8),
        ListType("map", ("topologyKey", "whenUnsatisfiable")),
    ] = Field(
        default=(),
        description="How the pods are spread; none named: over nodes and zones, when there is a "
        "choice.",
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="PriorityClass of the pods."
    )
    annotations: ExtraStrings | None = Field(
        default=None, description="Annotations that the pods get beside the operator's."
    )
    labels: ExtraStrings | None = Field(
        default=None, description="Labels that the pods get beside the operator's."
    )
