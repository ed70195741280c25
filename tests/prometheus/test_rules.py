"""The alerts' arithmetic, by Prometheus' own promtool: what fires, what does not, and when."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.prometheus.asked import ALERTS
from tests.prometheus.observed import RULES
from tests.prometheus.rule_cases import CASES, Case
from tests.support.prometheus import promtool
from tools.observability.operator_alerts import OPERATOR

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(180)]
BY_NAME = {alert.name: alert for alert in ALERTS}


def run_promtool(folder: Path, tests: list[dict[str, Any]]) -> tuple[int, str]:
    """Have promtool judge: its exit code, and what it says."""
    file = folder / "cases.yaml"
    whole = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    file.write_text(json.dumps(whole))  # JSON is YAML
    done = promtool("test", "rules", file)
    return done.returncode, done.stdout + done.stderr


def judged(case: Case) -> dict[str, Any]:
    """A test of promtool's without its question."""
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {"name": case.title, "interval": "1m", "input_series": series}


def counted(case: Case) -> dict[str, Any]:
    """Whether the alert fires: asked by a count, so that texts need not be repeated here."""
    alert = f'alertname="{BY_NAME[case.alert].full_name}", alertstate="firing"'
    return judged(case) | {
        "promql_expr_test": [
            {
                "expr": f"count(ALERTS{{{alert}}}) or vector(0)",
                "eval_time": case.at,
                "exp_samples": [{"labels": "{}", "value": int(case.fires)}],
            }
        ]
    }


def test_promtool_finds_no_fault_in_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_each_alert_is_seen_to_fire_and_to_be_quiet() -> None:
    seen = Counter((case.alert, case.fires) for case in CASES)
    assert set(seen) == {(alert.name, fires) for alert in ALERTS for fires in (True, False)}


def test_every_case_fires_or_is_quiet_as_it_says(tmp_path: Path) -> None:
    code, said = run_promtool(tmp_path, [counted(case) for case in CASES])
    assert code == 0, said


def test_a_wrong_case_is_noticed(tmp_path: Path) -> None:
    right = next(case for case in CASES if case.fires)
    wrong = Case(right.alert, not right.fires, right.at, right.series)
    code, said = run_promtool(tmp_path, [counted(wrong)])
    assert code == 1
    assert BY_NAME[wrong.alert].full_name in said


def test_the_texts_of_each_alert_say_which_relay_it_is_about(tmp_path: Path) -> None:
    tests = []
    for alert in ALERTS:
        case = next(case for case in CASES if case.alert == alert.name and case.fires)
        # Nothing is expected, so promtool shows what fires instead.
        asked = {"eval_time": case.at, "alertname": alert.full_name, "exp_alerts": []}
        tests.append(judged(case) | {"alert_rule_test": [asked]})
    _, said = run_promtool(tmp_path, tests)
    summaries = dict(re.findall(r'alertname="(\w+)".*?summary="([^"]*)"', said, re.DOTALL))
    assert set(summaries) == {alert.full_name for alert in ALERTS}
    for alert in ALERTS:
        shown = summaries[alert.full_name]
        about = " in ops" if alert in OPERATOR.alerts else "elay mail in post"
        assert about in shown
        assert "{{" not in shown
        assert "error" not in shown
