"""The spec of a MailRelay resource: everything that can be said of a relay in a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailrelay_operator.resource.access import NetworkPolicy
from mailrelay_operator.resource.ingress import Ingress
from mailrelay_operator.resource.limits import Capture, Emails, Failed, Limits
from mailrelay_operator.resource.monitor import Monitor
from mailrelay_operator.resource.option import option
from mailrelay_operator.resource.queue import Queue
from mailrelay_operator.resource.routes import MAX_ROUTES, Route
from mailrelay_operator.resource.schema import (
    ListType,
    ObjectName,
    Rule,
    Section,
    Shape,
)
from mailrelay_operator.resource.security import Security
from mailrelay_operator.resource.sender import Sender
from mailrelay_operator.resource.tracing import Tracing

# A registry's host and port, path, tag and digest.
Image = Annotated[
    str,
    Field(min_length=1, max_length=512),
    Shape(
        r"^[A-Za-z0-9][A-Za-z0-9_.:/@-]*$",
        "must be an image such as registry.example.org/mail/sender:1.2",
    ),
]
HostName = Annotated[
    str,
    Field(max_length=253),  # RFC 1035 section 2.3.4, as text without the last dot
    Shape(
        r"^$|^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$",
        "must be a host name such as relay.example.org",
    ),
]


class Images(Section):
    """Images of the pods; those not named are the operator's own version."""

    ingress: Image | None = Field(default=None, description="Image of the ingress pods.")
    sender: Image | None = Field(default=None, description="Image of the sender pods.")
    monitor: Image | None = Field(default=None, description="Image of the monitor's pod.")
    nats: Image | None = Field(default=None, description="Image of the NATS pods.")
    tools: Image | None = Field(
        default=None, description="Image of the Job that makes the streams."
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When nodes pull images, as in Kubernetes."
    )


class PullSecret(Section):
    """A Secret that images are pulled with."""

    name: ObjectName = Field(description="Its name, in the relay's namespace.")


class Spec(Section):
    """What a relay shall be."""

    RULES = (
        Rule(
            "!self.security.logAllEmails || has(self.emails.claimName)",
            "security.logAllEmails needs emails.claimName: a PersistentVolumeClaim of access mode "
            "ReadWriteMany, because all ingress pods and the monitor share what is kept",
            field=".emails.claimName",
            reason="FieldValueRequired",
        ),
    )

    paused: bool = Field(
        default=False,
        description="Whether the operator leaves the relay's objects as they are. Mail flows on.",
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="Whether the volumes, with queued and failed mail, stay when the resource is "
        "deleted (Retain) or go with it (Delete).",
    )
    host_name: HostName = option(
        "hostName",
        description="The relay's own name in greetings and Received, and in the certificate that "
        "is made for it; empty: the Service's name in the cluster.",
    )
    helo_name: HostName = option("heloName")
    images: Images = Field(default=Images(), description="Images of the pods.")
    image_pull_secrets: Annotated[
        tuple[PullSecret, ...], Field(max_length=16), ListType("map", ("name",))
    ] = Field(default=(), description="Secrets that images are pulled with.")
    ingress: Ingress = Field(default=Ingress(), description="Where mail comes in.")
    security: Security = Field(default=Security(), description="Who may use the relay.")
    routes: Annotated[
        tuple[Route, ...],
        Field(max_length=MAX_ROUTES),
        ListType("map", ("name",)),
        Rule(
            "self.filter(r, size(r.recipientDomains) == 0).size() <= 1",
            "only one route may be without recipientDomains: it takes all mail that no other route "
            "takes",
        ),
    ] = Field(
        default=(),
        description="Where mail goes. Mail that no route takes is captured: kept and shown, and "
        "released by hand.",
    )
    sender: Sender = Field(default=Sender(), description="How queued mail is delivered.")
    limits: Limits = Field(default=Limits(), description="How many messages are accepted.")
    capture: Capture = Field(default=Capture(), description="Mail that no route takes.")
    failed: Failed = Field(default=Failed(), description="Mail that could not be delivered.")
    emails: Emails = Field(default=Emails(), description="Content kept beside the queue.")
    queue: Queue = Field(default=Queue(), description="The queue underneath.")
    monitor: Monitor = Field(
        default=Monitor(), description="Numbers, failed and captured mail, HTTP."
    )
    tracing: Tracing | None = Field(
        default=None, description="Where spans go; not set: none are made."
    )
    network_policy: NetworkPolicy = Field(
        default=NetworkPolicy(), description="Who reaches the relay's pods, and whom they reach."
    )
