"""Which generated file of the chart stands where."""

from __future__ import annotations

from pathlib import Path

from tools.chart.readme import readme_text
from tools.chart.schema import schema_text
from tools.chart.templates import crd_template, generated_helpers
from tools.chart.values_file import values_text


def chart_files(root: Path) -> dict[Path, str]:
    """Return every generated file of the chart by its path."""
    chart = root / "charts" / "mailrelay"
    return {
        chart / "README.md": readme_text(),
        chart / "values.yaml": values_text(),
        chart / "values.schema.json": schema_text(),
        chart / "templates" / "crds" / "mailrelays.yaml": crd_template(),
        chart / "templates" / "_generated.tpl": generated_helpers(),
    }
