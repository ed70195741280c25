"""Which page stands where."""

from __future__ import annotations

from pathlib import Path

from tools.chart.files import chart_files
from tools.observability.files import observability_files
from tools.reference.config_page import config_page
from tools.reference.metric_page import metric_page
from tools.reference.queue_page import queue_page
from tools.reference.rbac import rbac_text
from tools.reference.reply_page import reply_page
from tools.reference.resource_page import crd_text, resource_page
from tools.reference.step_page import step_page

ROOT = Path(__file__).parents[2]
_NOTICE = "<!-- Written by `make docs` from the code; change the code, not this page. -->\n\n"


def pages() -> dict[Path, str]:
    """Return every generated file by its path: the pages, the definition, rights, the chart's."""
    folder = ROOT / "docs" / "reference"
    texts = {
        "config.md": config_page(),
        "mailrelay.md": resource_page(),
        "metrics.md": metric_page(ROOT),
        "queue.md": queue_page(),
        "replies.md": reply_page(),
        "steps.md": step_page(),
    }
    found = {folder / name: _NOTICE + text for name, text in texts.items()}
    operator = ROOT / "operator"
    found |= {operator / "crd" / "mailrelays.yaml": crd_text(), operator / "rbac.yaml": rbac_text()}
    return found | chart_files(ROOT) | observability_files(ROOT)
