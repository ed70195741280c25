"""Queries that panels have in common, and what their lines are called."""

from __future__ import annotations

from typing import Final

from tools.observability.grafana import Query
from tools.observability.promql import per_relay, quantile, rate

NAME: Final = "{{namespace}} {{relay}}"  # empty where a label is missing
_PERCENTILES: Final = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


def per_second(metric: str, *more: str, matchers: tuple[str, ...] = ()) -> str:
    """How fast a counter grows in a relay's processes together, apart by `more` labels."""
    return per_relay("sum", rate(metric, *matchers), *more)


def percentiles(metric: str) -> tuple[Query, ...]:
    """The three that people ask for, of a histogram."""
    return tuple(Query(quantile(share, metric), f"{name} {NAME}") for share, name in _PERCENTILES)
