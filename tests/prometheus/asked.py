"""What dashboard and rules ask, as Grafana and Prometheus ask it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.prometheus import Labels
from tools.observability.alerting import alerts_of
from tools.observability.files import DASHBOARDS, GROUPS

# Longer than the tests take, so that what happened once is in it, whichever test comes first.
WINDOW = "30m"
ALERTS = list(alerts_of(GROUPS))
_METRIC = re.compile(r"\b(mailrelay_[a-z_]+|process_[a-z_]+|up)\b(?=[\[{ )]|$)")
# What the client library adds to a histogram's name.
_OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


def panels() -> Iterator[tuple[str, str, str]]:
    for dashboard in DASHBOARDS:
        for row in dashboard.rows:
            for panel in row.panels:
                for number, query in enumerate(panel.queries):
                    yield row.title, f"{row.title}: {panel.title} {number}", query.expr


def asked(expr: str, relay: Labels) -> str:
    """What Grafana makes of a query, with its variables set to this relay."""
    expr = expr.replace("$__rate_interval", WINDOW)
    expr = expr.replace("$namespace", relay.get("namespace", ".*"))
    return expr.replace("$relay", relay["relay"])


OF_RELAYS = [(title, expr) for row, title, expr in panels() if "perator" not in row]
ALL_QUERIES = [expr for _, _, expr in panels()] + [alert.expr for alert in ALERTS]


def metrics_of(expr: str) -> set[str]:
    """The metrics that an expression names, as the reference calls them."""
    return {_OF_HISTOGRAM.sub("", name) for name in _METRIC.findall(expr)}
