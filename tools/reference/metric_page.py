"""docs/reference/metrics.md: every metric that a process declares.

Read from the source, not by importing it: two processes may declare the same name, and the meaning
of label values stands in comments.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.reference.markdown import code, table

_KINDS = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
}
_INTRODUCTION = """\
# Metrics

For Prometheus, in its text format. Each process answers `/metrics`, `/healthz` and `/readyz` on a
port of its own; on one machine the ports are chosen at each start and stand under `probes` in
`data/run/relay.json`. The monitor gives its metrics on its HTTP port too (`healthCheckPort`), when
the request's `Accept` header asks for `text/plain`, as Prometheus does; otherwise `/metrics` there
answers the guide's JSON. Beside these there are the client library's own (`process_…`, and in
ingress and sender `python_…`).

The operator answers on `MAILRELAY_OPERATOR_PROBE_ADDRESS`.

No label carries an address or a name from the mail.
"""


@dataclass(frozen=True, slots=True)
class _Declared:
    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]
    notes: tuple[str, ...]  # comments beside labels and their values
    buckets: str


def metric_page(root: Path) -> str:
    """Return the page."""
    parts = [_INTRODUCTION]
    folders = {
        service: root / "services" / service / "src" / f"mailrelay_{service}"
        for service in ("ingress", "sender", "monitor")
    }
    folders["operator"] = root / "operator" / "src" / "mailrelay_operator"
    library = root / "lib" / "src" / "mailrelay"
    folders["every process"] = library / "runtime"
    folders["ingress and sender (the shared library)"] = library / "queue"
    for title, folder in folders.items():
        found = [each for path in sorted(folder.rglob("*.py")) for each in declared(path)]
        rows = (_row(each) for each in sorted(found, key=lambda each: each.name))
        parts.append(f"## {title}\n\n" + table(("Name", "Kind", "Meaning", "Labels"), rows))
    return "\n".join(parts)


def declared(path: Path) -> Iterator[_Declared]:
    """Yield the metrics that a module declares."""
    text = path.read_text()
    tree = ast.parse(text)
    comments = _comments(text)
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            continue
        kind = _KINDS.get(call.func.id)
        if kind is None:
            continue
        positional = [ast.literal_eval(argument) for argument in call.args[:2]]
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        labels = call.args[2] if len(call.args) > 2 else named.get("labels")  # noqa: PLR2004
        is_labelled = isinstance(labels, ast.List)
        beside = [*_lines(call), *_values(tree, call)] if is_labelled else []
        name = positional[0]
        yield _Declared(
            f"{name}_total" if kind == "counter" and not name.endswith("_total") else name,
            kind,
            positional[1],
            tuple(ast.literal_eval(labels)) if isinstance(labels, ast.List) else (),
            tuple(comments[line] for line in beside if line in comments),
            ", ".join(map(str, ast.literal_eval(named["buckets"]))) if "buckets" in named else "",
        )


def _lines(node: ast.expr) -> Iterable[int]:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _values(tree: ast.Module, family: ast.Call) -> Iterator[int]:
    """Yield the lines of `family.add_metric([value], …)`, where each value is explained."""
    targets = {
        node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and node.value is family
        and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "add_metric"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in targets
        ):
            yield node.lineno


def _comments(text: str) -> dict[int, str]:
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            before = token.line[: token.start[1]].strip()
            words = token.string.removeprefix("#").strip()
            value = before.partition('(["')[2].partition('"]')[0]
            found[token.start[0]] = f"{value}: {words}" if ".add_metric(" in before else words
    return found


def _row(metric: _Declared) -> tuple[str, ...]:
    meaning = metric.meaning
    if metric.buckets:
        meaning += f" Buckets up to {metric.buckets}."
    labels = ", ".join(map(code, metric.labels))
    notes = "; ".join(metric.notes)
    return code(metric.name), metric.kind, meaning, f"{labels}: {notes}" if notes else labels
