"""The pages for who comes from elsewhere name only what MailRelay really has."""

from __future__ import annotations

from mailrelay.config.load import options
from mailrelay.config.model import RelayConfig
from mailrelay.config.text import parse_config_text
from tests.operator.fields import FIELDS
from tests.support.pages import GUIDES, blocks, quoted, table

POSTFIX = GUIDES / "from-postfix.md"
CHART = GUIDES / "from-docker-postfix.md"
OPTIONS = {option.key for option in options()}


def fields_of(cell: str) -> set[str]:
    """The fields of the resource that a cell names, as `tests.operator.fields` does."""
    return {f"spec.{name.replace('[]', '')}" for name in quoted(cell)}


def test_the_page_for_postfix_names_options_and_fields_that_there_are() -> None:
    rows = table(POSTFIX, "What becomes of main.cf")
    assert len(rows) > 30
    assert {name for row in rows for name in quoted(row[1])} <= OPTIONS
    assert {name for row in rows for name in fields_of(row[2])} <= FIELDS.keys()


def test_each_parameter_of_postfix_has_one_row_and_an_answer() -> None:
    rows = table(POSTFIX, "What becomes of main.cf")
    names = [name for row in rows for name in quoted(row[0])]
    assert sorted(set(names)) == sorted(names)
    assert [row[0] for row in rows if not any(row[1:])] == []


def test_the_page_for_the_chart_names_fields_that_there_are() -> None:
    rows = table(CHART, "Values")
    assert len(rows) > 30
    assert {name for row in rows for name in fields_of(row[1])} <= FIELDS.keys()
    assert [row[0] for row in rows if not any(row[1:])] == []


def test_the_configuration_on_the_page_for_postfix_can_be_used() -> None:
    (text,) = blocks(POSTFIX, "json").values()
    assert RelayConfig.model_validate(parse_config_text(text)).forward_smtp
