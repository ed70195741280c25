"""docs/reference/steps.md: every step of the protocol that the code marks, and where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.reference.markdown import code, table

_ROOT = Path(__file__).parents[2]
_SOURCES = (
    _ROOT / "lib" / "src",
    *(_ROOT / "services" / name / "src" for name in ("ingress", "sender", "monitor")),
    _ROOT / "cli" / "src",
)
_INTRODUCTION = """\
# Steps

Each step of the queue's protocol that stores, sends, acks or deletes something is marked in the
code by `mailrelay.runtime.steps.passed`, right after it is done. Nothing in the relay listens
([decision 0012](../decisions/0012-steps-for-tests-that-kill.md)); `make crash` kills a process at
each of them. A name that ends in `sent` means handed to a socket and not answered yet.
"""


@dataclass(frozen=True, slots=True)
class MarkedStep:
    """One place that marks a step."""

    name: str
    where: str  # dotted: module, class, function


def marked_steps() -> list[MarkedStep]:
    """Return every marked step, by name. Raises TypeError for a name that is no literal."""
    found: list[MarkedStep] = []
    for source in _SOURCES:
        for path in sorted(source.rglob("*.py")):
            module = ".".join(path.relative_to(source).with_suffix("").parts)
            if module != "mailrelay.runtime.steps":
                found += _marks(ast.parse(path.read_text()), module)
    return sorted(found, key=lambda step: (step.name, step.where))


def step_page() -> str:
    """Return the page."""
    rows = ((code(step.name), code(step.where)) for step in marked_steps())
    return f"{_INTRODUCTION}\n" + table(("Step", "Marked in"), rows)


def _marks(node: ast.AST, where: str) -> Iterator[MarkedStep]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and _is_mark(child.func):
            yield MarkedStep(_literal(child, where), where)
        inner = where
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{where}.{child.name}"
        yield from _marks(child, inner)


def _is_mark(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name == "passed"


def _literal(call: ast.Call, where: str) -> str:
    first = call.args[0] if call.args else None
    if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
        msg = f"{where}: the name of a step must be a literal"
        raise TypeError(msg)
    return first.value
