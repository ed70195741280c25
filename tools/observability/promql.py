"""What every query says in the same words: which relay is meant, and what is counted together.

A relay is told from others by two labels that its scrape gives it: `relay`, its name, and, in a
cluster, `namespace`. A third, `component`, is ingress, sender or monitor (decision 0035). Where a
label is missing, as `namespace` is on one machine, it is an empty one to Prometheus, so that the
same query serves both.
"""

from __future__ import annotations

from typing import Final

# Of a dashboard: the relays that its variables choose. `.*` matches a label that is missing.
CHOSEN: Final = 'namespace=~"$namespace", relay=~"$relay"'
# Of an alert: of relays alone, where the metric is not the relay's own (`up`, `process_…`).
OF_RELAYS: Final = 'relay!="", component=~"ingress|sender|monitor"'
RELAY: Final = "namespace, relay"


def per_relay(function: str, vector: str, *more: str) -> str:
    """Aggregate over a relay's processes, apart by `more` labels."""
    return f"{function} by ({', '.join((RELAY, *more))}) ({vector})"


def chosen(metric: str, *matchers: str) -> str:
    """Select a metric of the chosen relays."""
    return f"{metric}{{{', '.join((CHOSEN, *matchers))}}}"


def rate(metric: str, *matchers: str) -> str:
    """How fast a counter of the chosen relays grows, a second."""
    return f"rate({chosen(metric, *matchers)}[$__rate_interval])"


def quantile(share: float, metric: str, *more: str) -> str:
    """Estimate a quantile of a histogram of the chosen relays, from its buckets."""
    buckets = per_relay("sum", rate(f"{metric}_bucket"), "le", *more)
    return f"histogram_quantile({share}, {buckets})"
