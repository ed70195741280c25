"""charts/mailrelay/values.yaml: every default, with its meaning above it."""

from __future__ import annotations

from collections.abc import Iterator

from tools.chart.text import comment, inline, rows
from tools.chart.values import Chart

_NOTICE = """\
# Values of the chart. What is not named keeps its default; `helm install` needs none.
#
# Written by `make docs` from tools/chart/values.py; change that, not this file.
"""


def values_text() -> str:
    """Return the file."""
    return "\n".join([_NOTICE, *_lines()]).rstrip() + "\n"


def _lines() -> Iterator[str]:
    for row in rows(Chart()):
        depth = row.path.count(".")
        indent = "  " * depth
        key = row.path.rpartition(".")[2]
        if row.is_section:
            if depth == 0:
                yield ""
            yield from comment(row.meaning, indent)
            yield f"{indent}{key}:"
        else:
            yield from comment(row.meaning, indent)
            yield f"{indent}{key}: {inline(row.default)}"
