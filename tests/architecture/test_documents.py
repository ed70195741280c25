from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mailrelay.config.model import RelayConfig
from mailrelay.config.text import parse_config_text
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.names import Names
from mailrelay.queue.streams import QueueLimits, stream_configs
from mailrelay_cli.main import app
from tests.architecture.repository import ROOT, SOURCES, documents, tracked_files

WRITTEN = [path for path in documents() if path.parent.name != "reference"]
RULES = {str(number) for number in range(1, 16)}
MARKS = {"built", "partly", "not yet"}


def title(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(path: Path) -> str:
    """What a document shows as commands: fenced blocks and inline code."""
    text = path.read_text()
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*fenced, *re.findall(r"`([^`\n]+)`", text)])


@pytest.mark.parametrize("path", WRITTEN, ids=title)
def test_the_make_targets_of_a_document_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^(?:\$ )?make ([a-z-]+)", code_of(path), re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", WRITTEN, ids=title)
def test_the_commands_of_a_document_exist(path: Path) -> None:
    known = {str(command.name) for command in app.registered_commands}
    known |= {str(group.name) for group in app.registered_groups}
    used = re.findall(r"^(?:\.venv/bin/)?mailrelay ([a-z]+)", code_of(path), re.MULTILINE)
    assert set(used) <= known


@pytest.mark.parametrize("path", documents(), ids=title)
def test_the_links_of_a_document_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    local = [target for target in targets if not target.startswith(("http:", "https:", "mailto:"))]
    assert [target for target in local if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", WRITTEN, ids=title)
def test_the_modules_and_functions_that_a_document_names_exist(path: Path) -> None:
    dotted = re.findall(r"`(mailrelay(?:_\w+)?(?:\.\w+)+)(?:\(\))?`", path.read_text())
    files = {name for name in dotted if name.endswith((".log", ".py", ".lock"))}
    assert [name for name in dict.fromkeys(dotted) if name not in files and not exists(name)] == []


def exists(dotted: str) -> bool:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        for source in SOURCES:
            base = source.joinpath(*parts[:length])
            for file in (base.with_suffix(".py"), base / "__init__.py"):
                if file.exists():
                    return has_name(ast.parse(file.read_text()).body, parts[length:])
    return False


def has_name(body: list[ast.stmt], names: list[str]) -> bool:
    """Whether the nested name is defined: a class, function, method, field or constant."""
    if not names:
        return True
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name == names[0]:
                return has_name(node.body, names[1:])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == names[0] for each in targets):
                return True
    return False


def test_the_configuration_in_the_readme_can_be_used() -> None:
    readme = (ROOT / "README.md").read_text()
    whole, routes = re.findall(r"^```json\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert RelayConfig.model_validate(parse_config_text(whole)).forward_smtp
    both = parse_config_text(whole) | parse_config_text(routes)
    assert RelayConfig.model_validate(both).routes


def test_the_queue_document_has_every_rule_once_and_says_how_far_it_is() -> None:
    text = (ROOT / "docs" / "queue.md").read_text()
    rules = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+?) \|", text, re.MULTILINE)
    assert [number for number, _ in rules] == sorted(RULES, key=int)
    assert {mark for _, mark in rules} <= MARKS
    told = re.findall(r"^### (\d+)\. ", text, re.MULTILINE)
    assert told == sorted(RULES, key=int)


def test_the_queue_document_has_the_streams_and_lanes_of_the_code() -> None:
    text = (ROOT / "docs" / "queue.md").read_text()
    names = Names(RelayConfig.model_fields["queue"].default.prefix)
    limits = QueueLimits(
        store_bytes=10**9, queue_size=1, capture_max_messages=1, capture_drops_oldest=True
    )
    streams = [
        config["name"].removeprefix(names.prefix) for config in stream_configs(names, limits)
    ]
    assert re.findall(r"^\| `P(-[\w-]+)` \|", text, re.MULTILINE) == streams
    ladder = ", ".join(f"`{lane.name}`" for lane in LADDER)
    assert ladder in " ".join(text.split())


def test_the_rules_and_documents_that_the_code_cites_exist() -> None:
    cited_rules: set[str] = set()
    cited_documents: set[str] = set()
    for path in tracked_files():
        if path.suffix == ".py" and path != Path(__file__):
            text = path.read_text()
            for rules in re.findall(r"queue rules? ((?:\d+(?:, | and )?)+)", text):
                cited_rules |= set(re.findall(r"\d+", rules))
            cited_documents |= set(re.findall(r"docs/[\w/.-]*\w", text))
    assert cited_rules <= RULES
    missing = [name for name in cited_documents if not list(ROOT.glob(f"{name}*"))]
    assert missing == []


def test_decisions_are_numbered_without_gaps_and_have_their_parts() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [path.name[:4] for path in records] == [
        f"{number:04}" for number in range(1, len(records) + 1)
    ]
    for path in records:
        text = path.read_text()
        assert re.match(rf"# {path.name[:4]}: .+\n\nDate: \d{{4}}-\d\d-\d\d\n", text), path.name
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences"], path.name
