"""Every test that the page about memberlist and serf names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/understand/conformance.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_the_page_names_tests_that_exist() -> None:
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 40
    missing = [(file, name) for file, name in named if f"def {name}" not in (ROOT / file).read_text()]
    assert missing == []


def test_every_behavior_of_theirs_has_one_of_ours() -> None:
    tables = PAGE.read_text().split("## What they have and rumormill does not have")[0]
    rows = [line for line in tables.splitlines() if line.startswith("| `Test")]
    assert len(rows) > 30
    assert [row for row in rows if not NAMED.search(row)] == []
