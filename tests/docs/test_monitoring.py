"""The alerts and the dashboard name metrics that exist, and places of the run book that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "deploy" / "prometheus" / "rumormill.rules.yml").read_text()
DASHBOARD = (ROOT / "deploy" / "grafana" / "rumormill.json").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def test_every_metric_named_is_one_that_a_sidecar_has() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    known = set(re.findall(r"^\| `(rumormill_\w+)`", page, re.MULTILINE))
    monitoring = (ROOT / "docs" / "run" / "monitoring.md").read_text()
    objectives = (ROOT / "docs" / "run" / "objectives.md").read_text()
    named = set(re.findall(r"\brumormill_\w+", RULES + DASHBOARD + monitoring + objectives))
    assert len(named) > 15
    assert {re.sub(r"_bucket$", "", name) for name in named} <= known


def test_every_alert_has_a_row_on_the_page_and_a_test() -> None:
    page = (ROOT / "docs" / "run" / "monitoring.md").read_text()
    assert len(ALERTS) == len(set(ALERTS)) > 10
    assert sorted(re.findall(r"^\| (Rumormill\w+) \|", page, re.MULTILINE)) == sorted(ALERTS)
    tests = (ROOT / "deploy" / "prometheus" / "rumormill.test.yml").read_text()
    for alert in ALERTS:
        silent_and_firing = re.findall(rf"alertname: {alert}\n +exp_alerts:( \[\])?", tests)
        assert sorted(silent_and_firing) == ["", " []"], alert


def test_every_alert_has_an_entry_of_its_own_in_the_run_books_and_names_it() -> None:
    entries = re.findall(r"^### (Rumormill\w+)$", (ROOT / "docs" / "run" / "incidents.md").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(ALERTS)
    named = re.findall(r"alert: (\w+)(?:(?!alert:)[\s\S])*?runbook: docs/run/incidents\.md#(\w+)", RULES)
    assert named == [(alert, alert.lower()) for alert in ALERTS]


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    dashboard = json.loads(DASHBOARD)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 8
    for panel in dashboard["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        assert {"x", "y", "w", "h"} == panel["gridPos"].keys()
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
