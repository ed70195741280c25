"""Which file stands where: the chart takes all of them, whatever they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tools.observability.alerting import rules_text
from tools.observability.delivery_alerts import COUNTING, DELIVERY
from tools.observability.operator_alerts import OPERATOR
from tools.observability.overview import OVERVIEW
from tools.observability.queue_alerts import QUEUE
from tools.observability.readiness_alerts import READINESS

DASHBOARDS: Final = (OVERVIEW,)
GROUPS: Final = (READINESS, QUEUE, DELIVERY, COUNTING, OPERATOR)


def observability_files(root: Path) -> dict[Path, str]:
    """Return every file by its path."""
    folder = root / "charts" / "mailrelay" / "files"
    found = {folder / "dashboards" / "overview.json": OVERVIEW.text()}
    return found | {folder / "rules" / "alerts.yaml": rules_text(GROUPS)}
