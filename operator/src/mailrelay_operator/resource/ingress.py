"""Where mail comes in: pods, ports, certificate and Service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailrelay_operator.resource.option import option
from mailrelay_operator.resource.pods import ExtraStrings, Pods
from mailrelay_operator.resource.schema import (
    Cidr,
    ListType,
    ObjectName,
    Port,
    Rule,
    Section,
)


class IssuerRef(Section):
    """An issuer of cert-manager."""

    name: ObjectName = Field(description="Its name.")
    kind: Literal["Issuer", "ClusterIssuer"] = Field(
        default="Issuer", description="Issuer (of the relay's namespace) or ClusterIssuer."
    )
    group: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="cert-manager.io", description="API group of the issuer."
    )


class Tls(Section):
    """Where the listener's certificate comes from; of the two at most one.

    With neither the operator makes an authority and a certificate, in the Secrets `<name>-ca` and
    `<name>-tls`; clients trust `ca.crt` of the first.
    """

    RULES = (
        Rule(
            "!(has(self.secretName) && has(self.issuerRef))",
            "secretName and issuerRef both say where the certificate comes from: leave one out",
            reason="FieldValueForbidden",
        ),
    )

    secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with `tls.crt` (certificate and chain) and `tls.key`, as of type "
        "kubernetes.io/tls. A new certificate in it is shown without a restart.",
    )
    issuer_ref: IssuerRef | None = Field(
        default=None,
        description="Issuer of cert-manager; the operator makes a Certificate, whose Secret is "
        "`<name>-tls-issued`.",
    )


class Service(Section):
    """How clients reach the relay."""

    RULES = (
        Rule(
            "self.type == 'LoadBalancer' || !has(self.loadBalancerSourceRanges)",
            "loadBalancerSourceRanges is for type LoadBalancer: set service.type to it, or leave "
            "the ranges out (security.allowedNetworks and networkPolicy hold for every type)",
            field=".loadBalancerSourceRanges",
            reason="FieldValueForbidden",
        ),
        Rule(
            "self.type == 'LoadBalancer' || !has(self.loadBalancerClass)",
            "loadBalancerClass is for type LoadBalancer: set service.type to it, or leave the "
            "class out",
            field=".loadBalancerClass",
            reason="FieldValueForbidden",
        ),
        Rule(
            "self.type != 'ClusterIP' || !has(self.externalTrafficPolicy)",
            "externalTrafficPolicy is for types NodePort and LoadBalancer: set service.type to one "
            "of them, or leave the policy out",
            field=".externalTrafficPolicy",
            reason="FieldValueForbidden",
        ),
        Rule(
            "!has(self.ipFamilyPolicy) || self.ipFamilyPolicy != 'SingleStack' || "
            "!has(self.ipFamilies) || size(self.ipFamilies) < 2",
            "ipFamilyPolicy SingleStack has one family: name one in ipFamilies, or set "
            "PreferDualStack",
            field=".ipFamilies",
        ),
    )

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="ClusterIP, NodePort or LoadBalancer, as in Kubernetes."
    )
    annotations: ExtraStrings | None = Field(
        default=None,
        description="Annotations of the Service, such as those that a cloud's load balancer reads.",
    )
    load_balancer_source_ranges: (
        Annotated[tuple[Cidr, ...], Field(min_length=1, max_length=64), ListType("set")] | None
    ) = Field(
        default=None, description="Networks that a load balancer lets in; not set: everybody."
    )
    load_balancer_class: Annotated[str, Field(min_length=1, max_length=317)] | None = Field(
        default=None,
        description="Which load balancer implementation serves it. Kubernetes does not change it "
        "once it is set.",
    )
    external_traffic_policy: Literal["Cluster", "Local"] | None = Field(
        default=None,
        description="Local keeps the client's address, which allowedNetworks and the slowing down "
        "of guessed passwords look at; Cluster (Kubernetes' default) may hide it.",
    )
    ip_families: (
        Annotated[
            tuple[Literal["IPv4", "IPv6"], ...],
            Field(min_length=1, max_length=2),
            ListType("atomic"),
            Rule("size(self) < 2 || self[0] != self[1]", "name each family once"),
        ]
        | None
    ) = Field(
        default=None,
        description="IPv4, IPv6 or both, the first one first; not set: the cluster's. The pods "
        "listen on all addresses that they have.",
    )
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = Field(
        default=None, description="As in Kubernetes; not set: SingleStack."
    )


class Ingress(Section):
    """Where mail comes in."""

    RULES = (
        Rule(
            "self.smtpsPort != self.port",
            "smtpsPort and port are the same: give each its own (465 and 587 by custom), or set "
            "smtpsPort to 0 for none",
            field=".smtpsPort",
        ),
    )

    replicas: int = Field(
        default=2,
        ge=0,
        le=100,
        description="Pods that take mail. 0: none is taken, and what is queued is still delivered.",
    )
    port: Port = Field(
        default=587,
        description="Port of the Service, with STARTTLS. Inside the pods it is another, because "
        "ports below 1024 need rights.",
    )
    smtps_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of the Service with TLS from the first octet (465 by custom); 0: none.",
    )
    tls: Tls = Field(default=Tls(), description="Where the listener's certificate comes from.")
    max_message_bytes: int = option("maxMessageBytes")
    max_connections: int = option(
        "maxConnections", description="SMTP clients at once for each ingress pod."
    )
    service: Service = Field(default=Service(), description="How clients reach the relay.")
    pods: Pods = Field(default=Pods(), description="The ingress pods.")
