"""Values to render and install with: one entry for each way in which the chart differs."""

from __future__ import annotations

from typing import Final

from tests.chart.helm import Values

SPEC: Final[Values] = {
    "routes": [
        {
            "name": "everything",
            "smartHosts": [{"host": "smtp.example.com", "credentialsSecretName": "upstream"}],
        }
    ]
}
POD_FIELDS: Final[Values] = {
    "nodeSelector": {"pool": "mail"},
    "tolerations": [{"key": "mail", "operator": "Exists", "effect": "NoSchedule"}],
    "topologySpreadConstraints": [
        {
            "topologyKey": "topology.kubernetes.io/zone",
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "mailrelay-operator"}},
        }
    ],
    "priorityClassName": "system-cluster-critical",
    "deploymentAnnotations": {"example.com/owner": "mail"},
    "podAnnotations": {"example.com/team": "mail"},
    "podLabels": {"example.com/cost": "42"},
    "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
    "proxy": {"httpsProxy": "http://proxy.example.com:3128"},
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
}
# `{namespace}` becomes the test's own.
MODES: Final[dict[str, Values]] = {
    "nothing set": {},
    "two replicas": {"operator": {"replicas": 2}},
    "own affinity": {
        "operator": {
            "replicas": 2,
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {
                                        "key": "kubernetes.io/arch",
                                        "operator": "In",
                                        "values": ["amd64", "arm64"],
                                    }
                                ]
                            }
                        ]
                    }
                }
            },
        }
    },
    "some namespaces": {"operator": {"watchNamespaces": ["{namespace}"]}},
    "placement, labels, proxies": {
        "operator": POD_FIELDS,
        "commonLabels": {"example.com/part": "mail"},
        "commonAnnotations": {"example.com/contact": "postmaster"},
        "serviceAccount": {"annotations": {"example.com/role": "operator"}},
    },
    "a registry": {
        "images": {
            "registry": "registry.example.org/mail",
            "tag": "1.2.3",
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "registry"}],
            "nats": {"tag": "2.15.1", "digest": "sha256:" + "0" * 64},
        }
    },
    "accounts and roles of others": {
        "serviceAccount": {"create": False, "name": "given"},
        "rbac": {"create": False},
    },
    "no policy, no test, no roles of people": {
        "operator": {"networkPolicy": {"enabled": False}},
        "test": {"enabled": False},
        "rbac": {"aggregate": False},
    },
    "a known API server": {
        "operator": {
            "networkPolicy": {
                "apiServerNetworks": ["192.0.2.0/24"],
                "apiServerPorts": [6443],
                "extraEgress": [{"ports": [{"protocol": "TCP", "port": 4318}]}],
            }
        }
    },
    "a first relay": {
        "relay": {
            "create": True,
            "name": "first",
            "labels": {"example.com/team": "mail"},
            "annotations": {"example.com/ticket": "8"},
            "spec": SPEC,
        }
    },
    "a first relay in some namespace": {
        "operator": {"watchNamespaces": ["{namespace}"]},
        "relay": {"create": True, "namespace": "{namespace}"},
    },
    "monitoring": {
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"release": "p"}, "interval": "30s"},
            "prometheusRule": {"enabled": True, "labels": {"release": "p"}},
            "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Mail"}},
        }
    },
    "other names": {"fullnameOverride": "post-office"},
    "a storage class for the test": {"test": {"storageClassName": "fast", "timeoutSeconds": 60}},
    "the definition goes with the chart": {"crds": {"keep": False}},
    "the definition is another's": {"crds": {"enabled": False}},
}


def mode(name: str, namespace: str) -> Values:
    """The values of a mode, for a namespace."""
    return {key: _in(value, namespace) for key, value in MODES[name].items()}


def _in(value: object, namespace: str) -> object:
    match value:
        case str():
            return value.replace("{namespace}", namespace)
        case list():
            return [_in(each, namespace) for each in value]
        case dict():
            return {key: _in(each, namespace) for key, each in value.items()}
    return value
