"""The shape of a Grafana dashboard, as far as ours need it: schema version 39 (Grafana 10.4).

Panels are placed by themselves: those of a row side by side, 24 columns wide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_COLUMNS: Final = 24
_SCHEMA_VERSION: Final = 39
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """A question to Prometheus; `legend` names each answer, `{{label}}` standing for a label."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph over time, or one number (`is_stat`). `steps`: from which value on which colour."""

    title: str
    meaning: str
    unit: str  # Grafana's id of it
    queries: tuple[Query, ...]
    is_stat: bool = False
    is_stacked: bool = False
    most: float | None = None  # where the axis ends
    steps: tuple[tuple[float, str], ...] = ()
    none: str = ""  # what a number says when there is no answer

    def json(self, number: int, place: Json) -> Json:
        """Return it as Grafana reads it."""
        return {
            "id": number,
            "type": "stat" if self.is_stat else "timeseries",
            "title": self.title,
            "description": self.meaning,
            "transparent": False,
            "datasource": _SOURCE,
            "gridPos": place,
            "targets": [self._target(*each) for each in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._field(), "overrides": []},
            "options": _STAT_OPTIONS if self.is_stat else _GRAPH_OPTIONS,
        }

    def _target(self, place: int, query: Query) -> Json:
        return {
            "refId": chr(ord("A") + place),
            "datasource": _SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "instant": self.is_stat,
            "range": not self.is_stat,
            "editorMode": "code",
        }

    def _field(self) -> Json:
        steps: list[Json] = [{"value": None, "color": "green" if self.steps else "text"}]
        steps += [{"value": value, "color": color} for value, color in self.steps]
        found: Json = {
            "unit": self.unit,
            "min": 0,
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "thresholds" if self.is_stat else "palette-classic"},
        }
        if self.most is not None:
            found["max"] = self.most
        if self.none:
            found["noValue"] = self.none
        if not self.is_stat:
            stacking = {"mode": "normal" if self.is_stacked else "none", "group": "A"}
            fill = 30 if self.is_stacked else 10
            found["custom"] = {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": fill,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": stacking,
            }
        return found


_STAT_OPTIONS: Final[Json] = {
    "graphMode": "none",
    "colorMode": "value",
    "justifyMode": "auto",
    "textMode": "auto",
    "orientation": "auto",
    "reduceOptions": {"calcs": ["lastNotNull"], "values": False, "fields": ""},
}
_GRAPH_OPTIONS: Final[Json] = {
    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
    "tooltip": {"mode": "multi", "sort": "desc"},
}


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading, side by side and equally wide, `height` units of some 30 pixels."""

    title: str
    panels: tuple[Panel, ...]
    height: int = 8
    across: int = 3


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice above the dashboard, of the values that `query` finds; all of them at first."""

    name: str
    label: str
    query: str

    def json(self) -> Json:
        """Return it as Grafana reads it."""
        return {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "datasource": _SOURCE,
            "query": {"query": self.query, "refId": f"variable-{self.name}"},
            "refresh": 2,  # when the time range changes
            "sort": 1,  # by name
            "multi": True,
            "includeAll": True,
            "allValue": ".*",  # also where nothing has the label
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "hide": 0,
            "skipUrlSync": False,
        }


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A whole one. `uid` stays, so that an import takes the place of the one before."""

    uid: str
    title: str
    meaning: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = field(default=())

    @property
    def panels(self) -> Iterator[Panel]:
        """All panels."""
        for row in self.rows:
            yield from row.panels

    def text(self) -> str:
        """Return the file's content."""
        source = {
            "type": "datasource",
            "name": "datasource",
            "label": "Prometheus",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
            "skipUrlSync": False,
        }
        whole = {
            "uid": self.uid,
            "title": self.title,
            "description": self.meaning,
            "tags": ["mailrelay"],
            "schemaVersion": _SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,  # one line through all graphs
            "time": {"from": "now-3h", "to": "now"},
            "refresh": "30s",
            "templating": {"list": [source, *(each.json() for each in self.variables)]},
            "panels": list(_placed(self.rows)),
        }
        return json.dumps(whole, indent=2) + "\n"


def _placed(rows: Sequence[Row]) -> Iterator[Json]:
    number, top = 0, 0
    for row in rows:
        number += 1
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        top += 1
        width = _COLUMNS // row.across
        for at, panel in enumerate(row.panels):
            number += 1
            line, column = divmod(at, row.across)
            y = top + line * row.height
            yield panel.json(number, {"h": row.height, "w": width, "x": column * width, "y": y})
        top += row.height * -(-len(row.panels) // row.across)
