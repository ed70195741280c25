"""MailRelay resources that tests begin with."""

from __future__ import annotations

import copy
from typing import Any

# As small as it gets for a relay that sends.
MINIMAL: dict[str, Any] = {
    "routes": [
        {
            "name": "everything",
            "smartHosts": [{"host": "smtp.example.com", "credentialsSecretName": "upstream"}],
        }
    ]
}

PODS: dict[str, Any] = {
    "resources": {
        "requests": {"cpu": "250m", "memory": "256Mi"},
        "limits": {"cpu": 2, "memory": "1Gi"},
    },
    "nodeSelector": {"disktype": "ssd"},
    "tolerations": [
        {"key": "mail", "operator": "Equal", "value": "only", "effect": "NoSchedule"},
        {"key": "leaving", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {
                        "matchExpressions": [
                            {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}
                        ]
                    }
                ]
            }
        }
    },
    "topologySpreadConstraints": [
        {
            "topologyKey": "topology.kubernetes.io/zone",
            "maxSkew": 2,
            "whenUnsatisfiable": "DoNotSchedule",
        }
    ],
    "priorityClassName": "mail",
    "annotations": {"example.com/owner": "post office"},
    "labels": {"example.com/team": "post"},
}

# Every option of the relay has another value than its default; every section has something.
FULL: dict[str, Any] = {
    "paused": True,
    "deletionPolicy": "Delete",
    "hostName": "relay.example.org",
    "heloName": "out.example.org",
    "images": {
        "ingress": "registry.example.org/mail/ingress:1.2",
        "sender": "registry.example.org/mail/sender@sha256:" + "a" * 64,
        "monitor": "registry.example.org:5000/mail/monitor",
        "nats": "nats:2.15.1",
        "tools": "mail/tools:1",
        "pullPolicy": "Always",
    },
    "imagePullSecrets": [{"name": "registry"}, {"name": "registry-two"}],
    "ingress": {
        "replicas": 3,
        "port": 2500,
        "smtpsPort": 465,
        "tls": {"issuerRef": {"name": "authority", "kind": "ClusterIssuer"}},
        "maxMessageBytes": 20_000_000,
        "maxConnections": 500,
        "service": {
            "type": "LoadBalancer",
            "annotations": {"example.com/internal": "true"},
            "loadBalancerSourceRanges": ["192.0.2.0/24", "198.51.100.7/32"],
            "loadBalancerClass": "example.com/balancer",
            "externalTrafficPolicy": "Local",
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack",
        },
        "pods": PODS,
    },
    "security": {
        "requireAuth": False,
        "usersSecretName": "people",
        "allowedNetworks": ["192.0.2.0/24", "2001:db8::/32"],
        "allowPlaintextAuth": True,
        "logAllEmails": True,
    },
    "routes": [
        {
            "name": "partners",
            "recipientDomains": ["example.org", ".example.org", "xn--mller-kva.example"],
            "smartHosts": [
                {
                    "host": "mx1.example.org",
                    "port": 2525,
                    "tls": "Implicit",
                    "caSecretName": "partners-ca",
                    "credentialsSecretName": "partners-login",
                },
                {"host": "192.0.2.25", "tls": "Opportunistic", "verifyTLS": False},
                {"host": "2001:db8::25"},
            ],
        },
        {"name": "rest", "smartHosts": [{"host": "smtp.example.com"}]},
    ],
    "sender": {
        "autoscaling": {
            "minReplicas": 0,
            "maxReplicas": 20,
            "readyPerReplica": 50,
            "scaleDownSeconds": 60,
        },
        "workerCount": 10,
        "processingTimeout": 120,
        "batchSize": 50,
        "batchDelay": 0,
        "continueOnError": False,
        "retry": {
            "maxAttempts": 20,
            "initialIntervalSeconds": 30,
            "multiplier": 1.5,
            "maxIntervalSeconds": 3600,
            "maxAgeSeconds": 86_400,
        },
        "pods": PODS,
    },
    "limits": {
        "enabled": True,
        "maxPerHour": 100,
        "maxPerDay": 1000,
        "globalMaxPerHour": 10_000,
        "globalMaxPerDay": 100_000,
    },
    "capture": {"maxMessages": 500, "whenFull": "DropOldest"},
    "failed": {
        "resendIntervalSeconds": 0,
        "resendBounced": True,
        "maxRecords": 1000,
        "maxBytes": 10_000_000,
        "maxAgeSeconds": 0,
    },
    "emails": {"claimName": "kept-mail", "keepSeconds": 3600, "maxBytes": 5_000_000},
    "queue": {
        "url": "nats://a.messaging.svc:4222,nats://b.messaging.svc:4222",
        "credentials": {
            "adminSecretName": "queue-admin",
            "ingressSecretName": "queue-ingress",
            "senderSecretName": "queue-sender",
            "monitorSecretName": "queue-monitor",
        },
        "storeBytes": 10 * 2**30,
        "prefix": "post",
        "replicas": 3,
        "storage": {"size": "20Gi", "className": "fast"},
        "queueSize": 50_000,
        "ackWaitSeconds": 60,
        "pods": PODS,
    },
    "monitor": {
        "storage": {"size": "5Gi", "className": "slow"},
        "allowedNetworks": ["10.0.0.0/8"],
        "tokenSecretName": "monitor-token",
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "pods": PODS,
    },
    "tracing": {"endpoint": "https://collector.example.org:4318/otlp", "samplePercent": 10},
    "networkPolicy": {
        "enabled": True,
        "clientNamespaces": ["shop", "office"],
        "clientNetworks": ["192.0.2.0/24"],
        "monitorNamespaces": ["monitoring"],
        "upstreamNetworks": ["198.51.100.0/24"],
    },
}


def resource(
    spec: dict[str, Any], *, name: str = "relay", namespace: str = "mail"
) -> dict[str, Any]:
    """Return a resource as the API server shows it."""
    return {
        "apiVersion": "mailrelay.dev/v1alpha1",
        "kind": "MailRelay",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": "8f0a5f5e-6f1c-4f0e-9a55-0d6f5ad9c1e4",
            "generation": 1,
        },
        "spec": spec,
    }


def changed(spec: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of a spec with one value more, or another: `routes.0.smartHosts.0.port`."""
    copied = copy.deepcopy(spec)
    node: Any = copied
    *above, last = path.split(".")
    for key in above:
        node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return copied
