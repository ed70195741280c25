"""The shape of a rule file for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import yaml

PREFIX: Final = "MailRelay"
# Where an alert's page is: within the repository, until the project has an address of its own.
RUNBOOKS: Final = "docs/runbooks"
# Said of a relay by its labels; on one machine there is no namespace.
WHICH: Final = "relay {{ $labels.relay }}{{ with $labels.namespace }} in {{ . }}{{ end }}"
WHICH_FIRST: Final = "R" + WHICH[1:]  # at the beginning of a sentence
_NOTICE: Final = "# Written by `make docs` from tools/observability; change that, not this file.\n"


class Severity(Enum):
    """How soon somebody should look."""

    CRITICAL = "critical"  # at once: mail is refused, stands still, or is about to
    WARNING = "warning"  # today: it gets worse, or one thing of several does not work
    INFO = "info"  # when there is time


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert; `holds` is how long `expr` has to be true without a break before it is told."""

    name: str
    severity: Severity
    holds: str
    expr: str
    summary: str
    description: str

    @property
    def full_name(self) -> str:
        """What Prometheus and the runbook call it."""
        return PREFIX + self.name

    @property
    def runbook(self) -> str:
        """Its page's path in the repository."""
        return f"{RUNBOOKS}/{self.full_name}.md"

    def rule(self) -> dict[str, Any]:
        """Return it as a rule file has it."""
        return {
            "alert": self.full_name,
            "expr": self.expr,
            "for": self.holds,
            "labels": {"severity": self.severity.value},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": self.runbook,
            },
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Alerts that are evaluated together."""

    name: str
    alerts: tuple[Alert, ...]


def rules_text(groups: Sequence[Group]) -> str:
    """Return a rule file."""
    whole = {
        "groups": [
            {"name": f"mailrelay-{group.name}", "rules": [alert.rule() for alert in group.alerts]}
            for group in groups
        ]
    }
    return _NOTICE + yaml.safe_dump(whole, sort_keys=False, width=100, allow_unicode=True)


def alerts_of(groups: Sequence[Group]) -> Iterator[Alert]:
    """Return the alerts of all groups."""
    for group in groups:
        yield from group.alerts
