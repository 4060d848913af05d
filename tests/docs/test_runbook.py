"""The run book has an entry for every event kind and every log line that the code can write, and for nothing else."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from rumormill.gossip.reporting import event_kinds as kinds_of_events

ROOT = Path(__file__).parents[2]
AGENT = ("gossip", "sidecar", "discovery", "membership", "ring", "cli/supervisor")
LEVELS = {"info", "warning", "error", "exception"}


def calls(*rooms: str) -> Iterator[ast.Call]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def words(call: ast.Call, position: int) -> set[str]:
    """The text of an argument: one word, or both of a choice."""
    if len(call.args) <= position:
        return set()
    branches = ast.walk(call.args[position])
    return {node.value for node in branches if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def name_of(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2].lstrip("_")


def event_kinds() -> set[str]:
    """Of `tell(kind, member, text)`, of `Event(at, kind, member, text)`, and of changes of the table."""
    kinds = set(kinds_of_events.SENTENCES)
    for node in ast.walk(ast.parse(inspect.getsource(kinds_of_events))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            kinds |= words(ast.Call(node.value, [node.targets[0].slice], []), 0)
    for call in calls(*AGENT):
        if name_of(call.func) == "record_event" and len(call.args) == 3:
            kinds |= words(call, 0)
        elif name_of(call.func) == "Event" and len(call.args) >= 4:
            kinds |= words(call, 1)
    return kinds


def log_lines() -> set[str]:
    """Of `log.info(name, ...)` and its like, and of a logger chosen beforehand."""
    names = set()
    for call in calls(*AGENT):
        owner = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        level = call.func.attr in LEVELS if isinstance(call.func, ast.Attribute) else name_of(call.func) == "log"
        if level and name_of(owner) in ("log", "loss_line"):
            names |= words(call, 0)
    return names


def entries(title: str) -> list[str]:
    """What the run book has under one heading: the code in each third-level heading."""
    page = (ROOT / "docs" / "run" / "runbook.md").read_text()
    section = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, title
    return [
        name
        for heading in re.findall(r"^### (.*)$", section[1], re.MULTILINE)
        for name in re.findall("`(.*?)`", heading)
    ]


def test_every_kind_of_event_has_an_entry() -> None:
    found = event_kinds()
    assert {"evicted", "refused", "process", "period"} <= found, "the test has lost sight of the code"
    assert entries("Events") == sorted(found)


def test_every_log_line_has_an_entry() -> None:
    found = log_lines()
    assert {"bound", "worker", "overloaded", "log"} <= found, "the test has lost sight of the code"
    assert entries("Log lines") == sorted(found)


def test_the_texts_that_the_run_book_quotes_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "run" / "runbook.md").read_text()
    table = page[page.index("| the text says |") : page.index("### `refuted`")]
    quoted = [part.strip() for text in re.findall('"(.*?)"', table) for part in text.split("…") if part.strip(" ,")]
    assert len(quoted) > 4
    sources = "".join(path.read_text() for path in (ROOT / "gossip").rglob("*.py"))
    joined = re.sub(r'"\n\s*f?"', "", sources)
    assert [text for text in quoted if text.strip(", ") not in joined] == []


def test_every_counter_has_an_entry() -> None:
    """Those whose names stand in the code; of the rest, the prefixes."""
    page = (ROOT / "docs" / "reference" / "counters.md").read_text()
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert len(named) == len(set(named))
    assert counters() <= set(named)


def counters() -> set[str]:
    found = set()
    for room in AGENT:
        for path in sorted((ROOT / room).rglob("*.py")):
            prefix = "http_" if room == "discovery" and path.parent.name != "listeners" else ""
            names = re.findall(r"counters\[\"(\w+)\"\]", path.read_text())
            found |= {prefix + name for name in names if not name.endswith("_")}
    assert {"received", "dropped_noise", "http_requests"} <= found, "the test has lost sight of the code"
    return found
