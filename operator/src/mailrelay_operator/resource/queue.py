"""The queue underneath: NATS of the relay's own, or one that is there already."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailrelay_operator.resource.option import option
from mailrelay_operator.resource.pods import Pods
from mailrelay_operator.resource.schema import (
    ObjectName,
    Quantity,
    Rule,
    Section,
    Shape,
)

_GROWS = Rule(
    "!isQuantity(string(self)) || !isQuantity(string(oldSelf)) || "
    "quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0",
    "a volume grows and never shrinks: give the size that it has, or a greater one",
)
# Less cannot hold a share for each stream in which the largest message has room.
_ENOUGH = Rule(
    "!isQuantity(string(self)) || quantity(string(self)).compareTo(quantity('1Gi')) >= 0",
    "must be at least 1Gi, so that each stream has room for large mail",
)
_CLASS_STAYS = Rule(
    "has(self.className) == has(oldSelf.className) && "
    "(!has(self.className) || self.className == oldSelf.className)",
    "className cannot be changed: volumes that are there keep their class; make a relay beside "
    "this one and let this one run empty",
    field=".className",
    reason="FieldValueForbidden",
)


_SERVER = r"(nats|tls)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
Url = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Shape(
        rf"^{_SERVER}(,{_SERVER})*$",
        "must be nats://host:port or tls://host:port, several with commas; who the relay is says "
        "credentials, and no user or password in here",
    ),
]


class QueueStorage(Section):
    """The volume of each NATS server."""

    RULES = (_CLASS_STAYS,)

    size: Annotated[Quantity, _ENOUGH, _GROWS] = Field(
        default="10Gi",
        description="Size of each server's volume; may grow, when its class lets it. The queue "
        "uses most of it.",
    )
    class_name: ObjectName | None = Field(
        default=None, description="StorageClass; not set: the cluster's default."
    )


class MonitorStorage(Section):
    """The monitor's volume: its index, which is made anew from the queue when it is lost."""

    RULES = (_CLASS_STAYS,)

    size: Annotated[Quantity, _GROWS] = Field(
        default="2Gi", description="Size of the volume; may grow, when its class lets it."
    )
    class_name: ObjectName | None = Field(
        default=None, description="StorageClass; not set: the cluster's default."
    )


class Credentials(Section):
    """NKey seeds for a NATS that is there already: one Secret a role, each with the key `seed`."""

    admin_secret_name: ObjectName = Field(
        description="Makes the queue's streams; used by the streams' Job alone."
    )
    ingress_secret_name: ObjectName = Field(description="For the ingress pods.")
    sender_secret_name: ObjectName = Field(description="For the sender pods.")
    monitor_secret_name: ObjectName = Field(description="For the monitor.")


class Queue(Section):
    """The queue underneath. With `url` a NATS that is there already, otherwise one of its own."""

    RULES = (
        Rule(
            "has(self.url) == has(oldSelf.url)",
            "url cannot be added or removed: the mail would stay behind in the old queue. Make a "
            "relay beside this one and let this one run empty",
            field=".url",
            reason="FieldValueForbidden",
        ),
        Rule(
            "!has(self.url) || has(self.credentials)",
            "url needs credentials: the Secret of each role's NKey seed",
            field=".credentials",
            reason="FieldValueRequired",
        ),
        Rule(
            "has(self.url) || !has(self.credentials)",
            "credentials is for a NATS named by url: without url the operator makes them itself",
            field=".credentials",
            reason="FieldValueForbidden",
        ),
        Rule(
            "!has(self.url) || has(self.prefix)",
            "url needs prefix: relays on one NATS are kept apart by it, so give each its own",
            field=".prefix",
            reason="FieldValueRequired",
        ),
        Rule(
            "has(self.url) == has(self.storeBytes)",
            "storeBytes goes with url: what the queue may use at that NATS. Without url "
            "storage.size says it",
            field=".storeBytes",
        ),
        Rule(
            "has(self.prefix) == has(oldSelf.prefix) && "
            "(!has(self.prefix) || self.prefix == oldSelf.prefix)",
            "prefix cannot be changed: the mail would stay behind under the old names. Make a "
            "relay beside this one and let this one run empty",
            field=".prefix",
            reason="FieldValueForbidden",
        ),
    )

    url: Url | None = Field(
        default=None,
        description="NATS with JetStream that is there already, such as "
        "`nats://nats.messaging.svc:4222`; several servers with commas. No user or password in it: "
        "credentials has them. Not set: the operator runs one for this relay.",
    )
    credentials: Credentials | None = Field(
        default=None, description="Who the relay is at the NATS of url."
    )
    store_bytes: Annotated[int, Field(ge=64 * 1024 * 1024)] | None = option(
        "queue.storeBytes",
        default=None,
        description="Bytes that the queue may use at the NATS of url, on each server.",
    )
    prefix: str | None = option(
        "queue.prefix",
        default=None,
        description="First part of every name at NATS; not set: `mailrelay`. Cannot be changed.",
    )
    replicas: Annotated[
        Literal[1, 3],
        Rule(
            "self == oldSelf",
            "replicas cannot be changed: a server alone and a cluster keep streams differently. "
            "Make a relay beside this one and let this one run empty",
            reason="FieldValueForbidden",
        ),
    ] = option(
        "queue.replicas",
        description="Copies of each record, each on a server of its own: 1 or 3. 3 bears the loss "
        "of a server. Cannot be changed.",
    )
    storage: QueueStorage = Field(
        default=QueueStorage(), description="The volume of each NATS server; not with url."
    )
    queue_size: int = option("queueSize")
    ack_wait_seconds: int = option("queue.ackWaitSeconds")
    pods: Pods = Field(default=Pods(), description="The NATS pods; not with url.")

    @property
    def is_own(self) -> bool:
        """Whether the operator runs NATS for this relay."""
        return self.url is None
