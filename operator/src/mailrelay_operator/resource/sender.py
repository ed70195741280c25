"""How queued mail is delivered: senders, their number, attempts."""

from __future__ import annotations

from pydantic import Field

from mailrelay_operator.resource.option import option
from mailrelay_operator.resource.pods import Pods
from mailrelay_operator.resource.schema import Rule, Section

DEFAULT_REPLICAS = 2
MAX_REPLICAS = 1000


class Autoscaling(Section):
    """Senders by what is ready to be sent now: new mail, retries due within 30 s, resends.

    While that number is unknown nothing is scaled down, and never below one.
    """

    RULES = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not be greater than maxReplicas: lower the one or raise the other",
            field=".minReplicas",
        ),
    )

    min_replicas: int = Field(
        default=1,
        ge=0,
        le=MAX_REPLICAS,
        description="Least pods. 0: none while nothing is ready; the first mail then waits for a "
        "pod to start.",
    )
    max_replicas: int = Field(ge=1, le=MAX_REPLICAS, description="Most pods.")
    ready_per_replica: int = Field(
        default=500,
        ge=1,
        le=1_000_000,
        description="Jobs ready for each pod: as many pods as these make are wanted.",
    )
    scale_down_seconds: int = Field(
        default=300,
        ge=0,
        le=3600,
        description="Pods go when fewer were wanted for this long.",
    )


class Retry(Section):
    """When a deferred recipient is tried again. By default about 38 attempts in five days."""

    RULES = (
        Rule(
            "self.initialIntervalSeconds <= self.maxIntervalSeconds",
            "initialIntervalSeconds must not be greater than maxIntervalSeconds: lower the one or "
            "raise the other",
            field=".initialIntervalSeconds",
        ),
    )

    max_attempts: int = option("retry.maxAttempts")
    initial_interval_seconds: int = option("retry.initialIntervalSeconds")
    multiplier: float = option("retry.multiplier")
    max_interval_seconds: int = option("retry.maxIntervalSeconds")
    max_age_seconds: int = option("retry.maxAgeSeconds")


class Sender(Section):
    """How queued mail is delivered."""

    RULES = (
        Rule(
            "[has(self.replicas), has(self.autoscaling), self.scaledExternally]"
            ".filter(x, x).size() <= 1",
            "replicas, autoscaling and scaledExternally each say who decides how many senders "
            "there are: leave one of them",
            reason="FieldValueForbidden",
        ),
    )

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=MAX_REPLICAS,
        description="Pods that deliver; 2 when neither autoscaling nor scaledExternally is set. 0: "
        "mail is taken and waits.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None, description="Let the operator decide by what is ready to be sent."
    )
    scaled_externally: bool = Field(
        default=False,
        description="Whether a HorizontalPodAutoscaler or KEDA of yours, pointed at the senders' "
        "Deployment, decides; the operator then leaves its replicas alone.",
    )
    worker_count: int = option("workerCount", description="Deliveries at once for each sender pod.")
    processing_timeout: int = option(
        "processingTimeout",
        description="Seconds for one delivery attempt. A sender pod that ends has this long, and a "
        "little more, to finish.",
    )
    batch_size: int = option("batchSize")
    batch_delay: int = option("batchDelay")
    continue_on_error: bool = option("continueOnError")
    retry: Retry = Field(default=Retry(), description="When deferred mail is tried again.")
    pods: Pods = Field(default=Pods(), description="The sender pods.")

    @property
    def fixed_replicas(self) -> int | None:
        """How many pods the resource says; None when something else decides."""
        if self.autoscaling is not None or self.scaled_externally:
            return None
        return DEFAULT_REPLICAS if self.replicas is None else self.replicas
