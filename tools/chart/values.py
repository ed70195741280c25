"""Every value of the chart: typed, with its default and what it means.

values.yaml, values.schema.json and the chart's README are made of these models. A docstring is
what stands above the section in values.yaml; a field's description stands above the field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# Lengths and letters of Kubernetes (RFC 1123), as tests/support and the resource have them.
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
LabelOrNone = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", max_length=63)]
# A name of which others are made: with the longest ending it must stay a label.
Prefix = Annotated[str, Field(pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=40)]
ObjectNameOrNone = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$",
        max_length=253,
    ),
]
# Path and name of an image, with or without a registry, but without tag and digest.
Repository = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?/)?"
        r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$",
        max_length=255,
    ),
]
Registry = Annotated[str, Field(pattern=r"^([A-Za-z0-9][-A-Za-z0-9.:/_]*[A-Za-z0-9])?$")]
Tag = Annotated[str, Field(pattern=r"^([A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?$")]
Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
# A bare number would be milliseconds to Prometheus, or refused.
Duration = Annotated[str, Field(pattern=r"^([0-9]+(ms|s|m|h))?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$")]
StringMap = dict[str, str]
# Handed on as it is; the API server checks it where it ends up.
AnyObject = dict[str, Any]
AnyObjects = list[dict[str, Any]]


class Values(BaseModel):
    """A part of the values: camelCase keys, none but those named."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
    )


class Image(Values):
    """One image."""

    repository: Repository = Field(description="Its name below `registry`.")
    tag: Tag = Field("", description="Instead of `images.tag`.")
    digest: Digest = Field("", description="`sha256:…`, which goes before the tag.")


class PullSecret(Values):
    """A Secret that images are pulled with."""

    name: Annotated[ObjectNameOrNone, Field(min_length=1)]


class Images(Values):
    """Where images come from. Those beside `operator` are what relays run by default."""

    registry: Registry = Field(
        "",
        description="Registry, and the path in it, of all images, `registry.example.org/mail`; "
        "empty: the names as they are, for nodes that have the images already.",
    )
    tag: Tag = Field("", description="Tag of all images; empty: the chart's appVersion.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When nodes pull the operator's image."
    )
    pull_secrets: list[PullSecret] = Field(
        [],
        description="Secrets for the operator's image: `[{name: registry}]`. A relay has "
        "`spec.imagePullSecrets` of its own.",
    )
    operator: Image = Field(
        Image(repository="mailrelay-operator"),
        description="The operator's image: `repository` is below `registry`, `tag` goes before "
        "`images.tag`, and `digest` (`sha256:…`) before that. The others have the same fields.",
    )
    ingress: Image = Field(Image(repository="mailrelay-ingress"), description="Takes mail.")
    sender: Image = Field(Image(repository="mailrelay-sender"), description="Delivers it.")
    monitor: Image = Field(
        Image(repository="mailrelay-monitor"), description="Tells of it over HTTP."
    )
    tools: Image = Field(
        Image(repository="mailrelay-tools"), description="Makes the queue's streams, and the test."
    )
    nats: Image = Field(Image(repository="mailrelay-nats"), description="nats-server.")


class Resources(Values):
    """What a pod asks for, and may use."""

    requests: dict[str, Quantity | int | float] = Field({"cpu": "50m", "memory": "128Mi"})
    limits: dict[str, Quantity | int | float] = Field({"memory": "512Mi"})


class Budget(Values):
    """How many operators may be away while nodes are drained."""

    enabled: bool = Field(
        default=True, description="Makes a PodDisruptionBudget when there are two replicas."
    )


class Proxy(Values):
    """Environment for a way out of the cluster by a proxy. Mail takes no HTTP proxy."""

    http_proxy: str = Field("", description="`http://host:port`; the same for the next.")
    https_proxy: str = Field("", description="For TLS.")
    no_proxy: str = Field(
        ".svc,.cluster.local,$(KUBERNETES_SERVICE_HOST)",
        description="Whom no proxy is asked for, when one of the others is set.",
    )


class OperatorPolicy(Values):
    """The operator's own NetworkPolicy."""

    enabled: bool = Field(
        default=True,
        description="Lets in those who read metrics, and out to the API server, the name server "
        "and the relays' monitors.",
    )
    api_server_networks: list[str] = Field(
        [],
        description="Networks of the API server, such as `[192.0.2.0/24]`; empty: any address, at "
        "`apiServerPorts` alone. (Policies see its own address, not that of its Service.)",
    )
    api_server_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(
        [443, 6443, 8443, 16443], description="Ports that it may listen at."
    )
    extra_egress: AnyObjects = Field(
        [], description="More rules, as in a NetworkPolicy: the way to a collector of traces."
    )


class Operator(Values):
    """The operator: makes relays of MailRelay resources, and keeps them right."""

    replicas: Annotated[int, Field(ge=1, le=2)] = Field(
        1, description="1, or 2: the second one waits, and takes over within 15 s."
    )
    watch_namespaces: Annotated[
        list[Label], Field(max_length=100, json_schema_extra={"uniqueItems": True})
    ] = Field(
        [],
        description="Namespaces whose relays it keeps. They must be there, and it gets a Role in "
        "each of them and no rights beyond. Empty: all namespaces, by a ClusterRole.",
    )
    log_format: Literal["json", "text"] = Field("json", description="json, or text for people.")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        4, description="Relays that are worked on at once."
    )
    relist_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        600, description="Seconds between full lists of everything, beside the watches."
    )
    resources: Resources = Resources()
    node_selector: StringMap = Field({}, description="Labels of the nodes that it may run on.")
    tolerations: AnyObjects = Field([], description="Taints that it bears, as in a pod.")
    affinity: AnyObject = Field(
        {}, description="As in a pod; empty: two replicas avoid one node if they can."
    )
    topology_spread_constraints: AnyObjects = Field([], description="As in a pod.")
    priority_class_name: ObjectNameOrNone = Field(
        "", description="PriorityClass of its pods, such as `system-cluster-critical`."
    )
    deployment_annotations: StringMap = Field({}, description="More annotations of the Deployment.")
    pod_annotations: StringMap = Field({}, description="More annotations of the pods.")
    pod_labels: StringMap = Field({}, description="More labels of the pods.")
    extra_env: AnyObjects = Field(
        [], description="More environment, as in a container: `OTEL_…`, for example."
    )
    proxy: Proxy = Proxy()
    pod_disruption_budget: Budget = Budget()
    network_policy: OperatorPolicy = OperatorPolicy()


class ServiceAccount(Values):
    """Who the operator is to the API server."""

    create: bool = Field(default=True, description="Whether the chart makes it.")
    name: ObjectNameOrNone = Field(
        "", description="Its name; empty: that of the Deployment (`default` without create)."
    )
    annotations: StringMap = Field({}, description="Its annotations.")


class Rbac(Values):
    """The operator's rights."""

    create: bool = Field(
        default=True,
        description="Whether the chart makes roles and bindings. Otherwise somebody gives the "
        "account the rights of operator/rbac.yaml.",
    )
    aggregate: bool = Field(
        default=True,
        description="Whether those with the cluster's roles view, edit and admin may see and "
        "change MailRelays in their namespaces. Not with operator.watchNamespaces.",
    )


class Crds(Values):
    """The definition of MailRelay."""

    enabled: bool = Field(
        default=True,
        description="Whether the chart installs and upgrades it. Otherwise somebody applies "
        "operator/crd/mailrelays.yaml, with each version.",
    )
    keep: bool = Field(
        default=True,
        description="Whether it stays when the chart is uninstalled. false: every relay in the "
        "cluster is deleted with it.",
    )
    check: bool = Field(
        default=True,
        description="Without enabled: whether to look that the one in the cluster is this "
        "version's. false for who may not read definitions, and for Argo CD, which renders without "
        "asking the cluster.",
    )


class PodMonitor(Values):
    """A PodMonitor of Prometheus' operator for the operator; relays have their own by default."""

    enabled: bool = Field(default=False, description="Whether the chart makes it.")
    labels: StringMap = Field({}, description="Labels by which a Prometheus selects it.")
    interval: Duration = Field("", description="How often it is read; empty: Prometheus' default.")


class PrometheusRule(Values):
    """Alerts for relays and operator, as a PrometheusRule of Prometheus' operator."""

    enabled: bool = Field(default=False, description="Whether the chart makes it.")
    labels: StringMap = Field({}, description="Labels by which a Prometheus selects it.")
    runbook_base_url: str = Field(
        "",
        pattern=r"^(https?://[^\s{}]+)?$",
        description="Where the pages of docs/runbooks are for who gets an alert, such as "
        "`https://git.example.org/mailrelay/blob/main/docs/runbooks`; empty: their path in the "
        "repository.",
    )


class Dashboards(Values):
    """Grafana dashboards as ConfigMaps, which Grafana's sidecar reads."""

    enabled: bool = Field(default=False, description="Whether the chart makes them.")
    labels: StringMap = Field(
        {"grafana_dashboard": "1"}, description="Labels by which the sidecar finds them."
    )
    annotations: StringMap = Field(
        {}, description="Their annotations: a folder, for example (`grafana_folder: Mail`)."
    )


class Monitoring(Values):
    """What is made for Prometheus and Grafana."""

    pod_monitor: PodMonitor = PodMonitor()
    prometheus_rule: PrometheusRule = PrometheusRule()
    dashboards: Dashboards = Dashboards()


class FirstRelay(Values):
    """A first relay, made once the operator is there. It stays when the chart is uninstalled."""

    create: bool = Field(default=False, description="Whether the chart makes it.")
    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)] = Field(
        "relay", description="Its name."
    )
    namespace: LabelOrNone = Field(
        "", description="Its namespace, which must be there; empty: the release's."
    )
    labels: StringMap = Field({}, description="Its labels.")
    annotations: StringMap = Field({}, description="Its annotations.")
    spec: AnyObject = Field(
        {},
        description="Its spec (docs/reference/mailrelay.md). Empty: it captures all mail and lets "
        "nothing out, which is for development.",
    )


class Trial(Values):
    """What `helm test` does: a small relay, a message, a sink that must get it; all gone after."""

    enabled: bool = Field(default=True, description="Whether there is a test.")
    timeout_seconds: Annotated[int, Field(ge=10, le=3600)] = Field(
        240, description="Seconds until the message must have come; helm test itself waits 5 min."
    )
    storage_class_name: ObjectNameOrNone = Field(
        "", description="StorageClass of its two volumes of 1 Gi; empty: the cluster's default."
    )


class Chart(Values):
    """All values."""

    name_override: Prefix = Field("", description="Instead of the chart's name in names.")
    fullname_override: Prefix = Field(
        "", description="Instead of release and chart in names; at most 40 letters."
    )
    common_labels: StringMap = Field({}, description="Labels of every object.")
    common_annotations: StringMap = Field({}, description="Annotations of every object.")
    images: Images = Images()
    operator: Operator = Operator()
    service_account: ServiceAccount = ServiceAccount()
    rbac: Rbac = Rbac()
    crds: Crds = Crds()
    monitoring: Monitoring = Monitoring()
    relay: FirstRelay = FirstRelay()
    test: Trial = Trial()
