"""A page for each alert, and an alert for each page; its commands are run as they stand there."""

from __future__ import annotations

import re

import pytest

from tests.prometheus.asked import ALERTS
from tests.prometheus.observed import ROOT
from tools.observability.alerting import Alert

RUNBOOKS = ROOT / "docs" / "runbooks"
HEADINGS = ["What it means", "Look first at", "What to do"]


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {alert.full_name for alert in ALERTS}
    assert all((ROOT / alert.runbook).exists() for alert in ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_a_runbook_says_what_it_means_what_to_look_at_and_what_to_do(alert: Alert) -> None:
    text = (ROOT / alert.runbook).read_text()
    assert text.startswith(f"# {alert.full_name}\n\n**{alert.severity.value}**")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert "```sh" in text


def test_the_list_of_runbooks_has_each_alert() -> None:
    listed = re.findall(r"\]\((MailRelay\w+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert listed == [alert.full_name for alert in ALERTS]
