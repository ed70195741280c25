"""What the chart brings along: complete, documented, and as Grafana's schema has it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.prometheus.asked import ALL_QUERIES, metrics_of
from tests.prometheus.observed import ROOT

FOLDER = ROOT / "charts" / "mailrelay" / "files"


def test_the_files_of_the_chart_are_those_that_are_tested() -> None:
    names = {
        path.relative_to(FOLDER)
        for kind in ("dashboards", "rules")
        for path in (FOLDER / kind).iterdir()
    }
    assert names == {Path("dashboards/overview.json"), Path("rules/alerts.yaml")}


def test_every_metric_of_a_query_is_documented() -> None:
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(mailrelay_\w+)` ", reference, re.MULTILINE))
    used = {name for expr in ALL_QUERIES for name in metrics_of(expr)}
    assert len(used) > 40
    assert {name for name in used if name.startswith("mailrelay_")} <= documented


@pytest.mark.parametrize("path", sorted(FOLDER.glob("dashboards/*.json")), ids=lambda p: p.stem)
def test_a_dashboard_has_no_field_that_grafanas_schema_lacks(path: Path) -> None:
    register_default_plugins()
    ours = json.loads(path.read_text())
    # What the schema does not know is lost on the way through it.
    theirs = json.loads(json.dumps(Dashboard.from_json(ours), cls=JSONEncoder))
    assert list(lost(ours, theirs, "")) == []


def lost(ours: Any, theirs: Any, where: str) -> Any:  # noqa: ANN401 — JSON
    """Yield where something of ours is missing or another."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key not in theirs:
                yield f"{where}.{key}"
            else:
                yield from lost(value, theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(*pair, f"{where}[{number}]")
    elif ours != theirs:
        yield f"{where}: {ours!r} became {theirs!r}"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("dashboards/*.json")), ids=lambda p: p.stem)
def test_the_panels_of_a_dashboard_do_not_overlap_and_have_their_own_numbers(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) == 23
