"""Resources that the API server refuses, each with the words that it says.

A row changes one value of a resource that is accepted. The words are the end of what kubectl shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.operator.resources import FULL, MINIMAL, changed


@dataclass(frozen=True, slots=True)
class Refused:
    """One resource and what the API server says of it."""

    what: str
    spec: dict[str, Any]
    words: str
    name: str = "relay"


def minimal(what: str, path: str, value: object, words: str) -> Refused:
    return Refused(what, changed(MINIMAL, path, value), words)


def full(what: str, path: str, value: object, words: str) -> Refused:
    return Refused(what, changed(FULL, path, value), words)


def _without(spec: dict[str, Any], path: str) -> dict[str, Any]:
    *above, last = path.split(".")
    copied = changed(spec, path, None)
    node: Any = copied
    for key in above:
        node = node[int(key)] if isinstance(node, list) else node[key]
    del node[last]
    return copied


_COLLECTOR = "of a collector that takes OTLP over HTTP, without user and password"
OUT = {"name": "out", "smartHosts": [{"host": "smtp.example.net"}]}
_NETWORK = (
    "must be a network such as 192.0.2.0/24 or 2001:db8::/32, with no bits set behind its prefix"
)

REFUSED = [
    # Traces.
    minimal("a collector without a scheme", "tracing", {"endpoint": "c.example:4318"}, _COLLECTOR),
    minimal(
        "a collector with a password",
        "tracing",
        {"endpoint": "https://user:secret@c.example:4318"},
        _COLLECTOR,
    ),
    full("more than all traces", "tracing.samplePercent", 101, "less than or equal to 100"),
    # The relay as a whole.
    Refused("a name of 41 characters", MINIMAL, "at most 40 characters", name="r" * 41),
    Refused("a name with a dot", MINIMAL, "without a dot", name="relay.eu"),
    Refused("a name that begins with a digit", MINIMAL, "must begin with a letter", name="1relay"),
    minimal("an unknown field", "smartHost", "smtp.example.com", 'unknown field "spec.smartHost"'),
    minimal(
        "a field in the wrong place",
        "sender.maxConnections",
        5,
        'unknown field "spec.sender.maxConnections"',
    ),
    minimal("a text for a truth value", "paused", "yes", 'must be of type boolean: "string"'),
    minimal(
        "a policy that there is not",
        "deletionPolicy",
        "Keep",
        'Unsupported value: "Keep": supported values: "Retain", "Delete"',
    ),
    minimal(
        "a host name of two lines",
        "hostName",
        "relay\nEHLO x",
        "must be a host name such as relay.example.org",
    ),
    minimal(
        "an image with a space",
        "images.sender",
        "sender latest",
        "must be an image such as registry.example.org/mail/sender:1.2",
    ),
    minimal(
        "a pull secret twice",
        "imagePullSecrets",
        [{"name": "a"}, {"name": "a"}],
        'Duplicate value: {"name":"a"}',
    ),
    # Ingress.
    minimal("less than no pods", "ingress.replicas", -1, "should be greater than or equal to 0"),
    minimal("half a pod", "ingress.replicas", 1.5, 'must be of type integer: "number"'),
    minimal("port 0", "ingress.port", 0, "should be greater than or equal to 1"),
    minimal("port 65536", "ingress.smtpsPort", 65536, "should be less than or equal to 65535"),
    minimal(
        "two listeners on one port", "ingress.smtpsPort", 587, "give each its own (465 and 587"
    ),
    full(
        "two sources of a certificate",
        "ingress.tls.secretName",
        "certificate",
        "secretName and issuerRef both say where the certificate comes from: leave one out",
    ),
    minimal("an issuer without a name", "ingress.tls.issuerRef", {}, "issuerRef.name: Required"),
    minimal(
        "an issuer of another kind",
        "ingress.tls.issuerRef",
        {"name": "a", "kind": "Authority"},
        'supported values: "Issuer", "ClusterIssuer"',
    ),
    minimal(
        "a tiny message limit", "ingress.maxMessageBytes", 1023, "greater than or equal to 1024"
    ),
    minimal(
        "source ranges without a load balancer",
        "ingress.service.loadBalancerSourceRanges",
        ["192.0.2.0/24"],
        "loadBalancerSourceRanges is for type LoadBalancer: set service.type to it",
    ),
    minimal(
        "a class without a load balancer",
        "ingress.service.loadBalancerClass",
        "example.com/balancer",
        "loadBalancerClass is for type LoadBalancer: set service.type to it",
    ),
    minimal(
        "a traffic policy inside the cluster",
        "ingress.service.externalTrafficPolicy",
        "Local",
        "externalTrafficPolicy is for types NodePort and LoadBalancer",
    ),
    full(
        "two families of one",
        "ingress.service.ipFamilyPolicy",
        "SingleStack",
        "ipFamilyPolicy SingleStack has one family",
    ),
    full("a family twice", "ingress.service.ipFamilies", ["IPv4", "IPv4"], "name each family once"),
    full("no source range", "ingress.service.loadBalancerSourceRanges", [], "at least 1 items"),
    full(
        "a source range that is none",
        "ingress.service.loadBalancerSourceRanges",
        ["office"],
        _NETWORK,
    ),
    # Security.
    minimal(
        "an open relay",
        "security.requireAuth",
        False,  # noqa: FBT003 — a value of the resource
        "requireAuth is false and allowedNetworks is empty, so whoever reaches the port could send",
    ),
    minimal("bits behind a prefix", "security.allowedNetworks", ["192.0.2.1/24"], _NETWORK),
    minimal("an address", "security.allowedNetworks", ["192.0.2.1"], _NETWORK),
    minimal(
        "a network twice",
        "security.allowedNetworks",
        ["192.0.2.0/24", "192.0.2.0/24"],
        'Duplicate value: "192.0.2.0/24"',
    ),
    minimal(
        "a Secret's path",
        "security.usersSecretName",
        "../users",
        "must be an object's name: a-z, 0-9, - and .",
    ),
    minimal(
        "kept content without a volume",
        "security.logAllEmails",
        True,  # noqa: FBT003 — a value of the resource
        "security.logAllEmails needs emails.claimName: a PersistentVolumeClaim",
    ),
    # Routes.
    minimal(
        "a route without smart hosts", "routes.0.smartHosts", [], "should have at least 1 items"
    ),
    minimal(
        "a route without a name", "routes", [{"smartHosts": OUT["smartHosts"]}], "name: Required"
    ),
    minimal(
        "a route's name in capitals",
        "routes.0.name",
        "Out",
        "must be at most 40 characters of a-z, 0-9 and -",
    ),
    minimal(
        "a route that is called capture", "routes.0.name", "capture", "must be another name than"
    ),
    minimal("two routes of one name", "routes", [OUT, OUT], 'Duplicate value: {"name":"out"}'),
    minimal(
        "two default routes",
        "routes",
        [OUT, OUT | {"name": "other"}],
        "only one route may be without recipientDomains",
    ),
    minimal(
        "a domain in capitals",
        "routes.0.recipientDomains",
        ["Example.ORG"],
        "must be a domain in lower case: example.org, or .example.org for all",
    ),
    minimal(
        "an address as a domain",
        "routes.0.recipientDomains",
        ["a@example.org"],
        "must be a domain in lower case",
    ),
    minimal(
        "a star as a domain",
        "routes.0.recipientDomains",
        ["*.example.org"],
        "must be a domain in lower case",
    ),
    minimal(
        "a smart host's path",
        "routes.0.smartHosts.0.host",
        "a.example/x",
        "must be a host name or an address; its port has a field of its own",
    ),
    minimal(
        "a smart host with its port",
        "routes.0.smartHosts.0.host",
        "a.example:25",
        "must be a host name or an address, without a port: that has a field of its own",
    ),
    minimal("a smart host's port 0", "routes.0.smartHosts.0.port", 0, "greater than or equal to 1"),
    minimal(
        "TLS in other words",
        "routes.0.smartHosts.0.tls",
        "starttls",
        'supported values: "StartTLS", "Implicit", "Opportunistic"',
    ),
    minimal(
        "authorities for what is not checked",
        "routes.0.smartHosts.0",
        {"host": "a.example", "verifyTLS": False, "caSecretName": "ca"},
        "caSecretName says what a certificate is checked by, and verifyTLS false checks nothing",
    ),
    minimal("a password", "routes.0.smartHosts.0.password", "x", "unknown field"),
    minimal(
        "nine smart hosts",
        "routes.0.smartHosts",
        [{"host": f"mx{number}.example"} for number in range(9)],
        "must have at most 8 items",
    ),
    minimal(
        "ten thousand routes",
        "routes",
        [
            {
                "name": f"r{number}",
                "recipientDomains": [f"d{number}.example"],
                "smartHosts": [{"host": "a.example"}],
            }
            for number in range(10_000)
        ],
        "spec.routes: Too many: 10000: must have at most 100 items",
    ),
    # Senders.
    full(
        "a number beside autoscaling",
        "sender.replicas",
        2,
        "replicas, autoscaling and scaledExternally each say who decides",
    ),
    full(
        "autoscaling beside an autoscaler",
        "sender.scaledExternally",
        True,  # noqa: FBT003 — a value of the resource
        "replicas, autoscaling and scaledExternally each say who decides",
    ),
    minimal("autoscaling without an end", "sender.autoscaling", {}, "maxReplicas: Required"),
    minimal(
        "more at least than at most",
        "sender.autoscaling",
        {"minReplicas": 5, "maxReplicas": 4},
        "minReplicas must not be greater than maxReplicas",
    ),
    minimal(
        "a first pause longer than the longest",
        "sender.retry.initialIntervalSeconds",
        20_000,
        "initialIntervalSeconds must not be greater than maxIntervalSeconds",
    ),
    minimal(
        "retries that get denser", "sender.retry.multiplier", 0.5, "greater than or equal to 1"
    ),
    minimal(
        "a duration in words", "sender.processingTimeout", "5m", 'must be of type integer: "string"'
    ),
    minimal("no workers", "sender.workerCount", 0, "should be greater than or equal to 1"),
    # Limits.
    minimal("a limit of nothing", "limits.maxPerHour", 0, "should be greater than or equal to 1"),
    minimal(
        "the relay's own spelling of a word",
        "capture.whenFull",
        "dropOldest",
        'supported values: "Refuse", "DropOldest"',
    ),
    minimal(
        "years between resends", "failed.resendIntervalSeconds", 10**9, "less than or equal to"
    ),
    # Queue.
    minimal("two copies", "queue.replicas", 2, 'Unsupported value: 2: supported values: "1", "3"'),
    minimal("a size in words", "queue.storage.size", "plenty", "must be an amount greater than 0"),
    minimal("a negative size", "queue.storage.size", "-1Gi", "must be an amount greater than 0"),
    minimal("no size", "queue.storage.size", 0, "must be an amount greater than 0"),
    minimal(
        "a queue too small for large mail", "queue.storage.size", "100Mi", "must be at least 1Gi"
    ),
    minimal(
        "credentials for nobody",
        "queue.credentials",
        FULL["queue"]["credentials"],
        "credentials is for a NATS named by url",
    ),
    minimal("space of an own queue", "queue.storeBytes", 10**9, "storeBytes goes with url"),
    Refused(
        "somebody's NATS without credentials",
        _without(FULL, "queue.credentials"),
        "url needs credentials",
    ),
    Refused("somebody's NATS without a prefix", _without(FULL, "queue.prefix"), "url needs prefix"),
    Refused(
        "somebody's NATS without a size",
        _without(FULL, "queue.storeBytes"),
        "storeBytes goes with url",
    ),
    full(
        "a password in an address",
        "queue.url",
        "nats://me:secret@nats:4222",
        "must be nats://host:port or tls://host:port",
    ),
    full(
        "a web address",
        "queue.url",
        "https://nats.example",
        "must be nats://host:port or tls://host:port",
    ),
    full("a path at NATS", "queue.url", "nats://nats:4222/mail", "must be nats://host:port"),
    full("a port in words", "queue.url", "nats://nats:client", "must be nats://host:port"),
    full(
        "two addresses with a space", "queue.url", "nats://a, nats://b", "must be nats://host:port"
    ),
    full("a prefix with a dot", "queue.prefix", "mail.relay", "should match"),
    full(
        "a role without a Secret",
        "queue.credentials",
        {"adminSecretName": "a", "ingressSecretName": "b", "senderSecretName": "c"},
        "monitorSecretName: Required",
    ),
    # Monitor, network policy, pods.
    minimal("a network of the monitor's", "monitor.allowedNetworks", ["::1"], _NETWORK),
    minimal(
        "a namespace as a label",
        "networkPolicy.clientNamespaces",
        ["team=shop"],
        "must be a name of a-z, 0-9 and -",
    ),
    minimal(
        "a label of the operator's",
        "sender.pods.labels",
        {"app.kubernetes.io/name": "other"},
        "are the operator's own: it finds its objects by them; use a prefix of yours",
    ),
    minimal(
        "an annotation of the operator's",
        "ingress.pods.annotations",
        {"mailrelay.dev/hash": "x"},
        "are the operator's own",
    ),
    minimal(
        "memory in words",
        "monitor.pods.resources.limits",
        {"memory": "lots"},
        "must be an amount greater than 0, such as 500m",
    ),
    minimal(
        "a security context",
        "sender.pods.securityContext",
        {"privileged": True},
        'unknown field "spec.sender.pods.securityContext"',
    ),
    minimal(
        "a taint's effect that there is not",
        "queue.pods.tolerations",
        [{"key": "a", "effect": "Never"}],
        'supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"',
    ),
    minimal(
        "a spread over nothing",
        "ingress.pods.topologySpreadConstraints",
        [{"maxSkew": 1}],
        "topologyKey: Required",
    ),
]
