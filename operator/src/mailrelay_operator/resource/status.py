"""The status of a MailRelay resource: what the operator saw last."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailrelay_operator.resource.schema import ListType, Section, Time


class Condition(Section):
    """One thing that is true of the relay or not, as in Kubernetes."""

    type: Annotated[str, Field(max_length=64)] = Field(description="What is told.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation that this was said of."
    )
    last_transition_time: Time = Field(description="When `status` last became another.")
    reason: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        description="Why, in one word for programs."
    )
    message: Annotated[str, Field(max_length=4096)] = Field(
        description="Why, for people, and what to do."
    )


class PodsStatus(Section):
    """The pods of one component."""

    replicas: int = Field(default=0, ge=0, description="Pods that are wanted.")
    ready_replicas: int = Field(default=0, ge=0, description="Pods that are ready.")
    summary: Annotated[str, Field(max_length=64)] = Field(default="", description="Both, as `2/3`.")


class IngressStatus(PodsStatus):
    """The ingress pods, and where clients reach them."""

    address: Annotated[str, Field(max_length=512)] = Field(
        default="",
        description="Where clients reach the relay, as host:port: the load balancer's name or "
        "address when the Service has one, otherwise the Service's name in the cluster.",
    )


class QueueStatus(Section):
    """What waits in the queue. Rarely refreshed: the numbers of now are metrics."""

    jobs: int = Field(default=0, ge=0, description="Jobs that wait or are being delivered.")
    ready: int | None = Field(
        default=None, ge=0, description="Jobs that could be sent now; not set: unknown."
    )
    failed: int | None = Field(
        default=None, ge=0, description="Recipients in the failed store; not set: unknown."
    )
    captured: int | None = Field(default=None, ge=0, description="Captured jobs; not set: unknown.")
    as_of: Time | None = Field(default=None, description="When these numbers were read.")


class Status(Section):
    """What the operator saw last."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation that all of this was said of."
    )
    conditions: Annotated[
        tuple[Condition, ...], Field(max_length=16), ListType("map", ("type",))
    ] = Field(
        default=(),
        description="Ready, Progressing, SecretsResolved, CertificateReady, QueueReady, "
        "IngressAvailable, SendersAvailable, Degraded, Paused.",
    )
    ingress: IngressStatus | None = Field(default=None, description="The ingress pods.")
    sender: PodsStatus | None = Field(default=None, description="The sender pods.")
    queue: QueueStatus | None = Field(default=None, description="What waits in the queue.")
