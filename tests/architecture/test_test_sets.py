"""The folder of a test decides its make target, CI runs every target, and no test's time limit is tight."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
REAL = {"processes", "net", "programs"}
"""Folders whose tests may start sidecars and demos. Their tests are in a set of their own."""
SMOKE = "smoke"
"""A few tests on real sidecars that `make test` runs too."""
MOST_SMOKE_TESTS = 5
STARTS_SIDECARS = {"agents", "busy", "rumormill.cli.demo.processes"}
SHORTEST_LIMIT = 30.0
"""Seconds. A shorter limit on wall time would fail on a busy machine."""
WAITS = {"fail_after", "wait", "join", "select"}
"""Calls whose positional arguments are time limits. `timeout=` is one in these and in CALLS."""
CALLS = {*WAITS, "communicate", "run", "create_connection"}

FILES = {path: ast.parse(path.read_text()) for path in sorted(TESTS.rglob("*.py"))}


def folder_of(path: Path) -> str:
    return path.relative_to(TESTS).parts[0]


def imported(tree: ast.Module) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_only_the_process_sets_start_sidecars() -> None:
    others = {path: tree for path, tree in FILES.items() if folder_of(path) not in {*REAL, SMOKE, "harness"}}
    assert not [path for path, tree in others.items() if imported(tree) & STARTS_SIDECARS], "move it to tests/processes"


def test_smoke_tests_are_few() -> None:
    tests = [name for path in TESTS.glob(f"{SMOKE}/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())]
    assert 1 <= len(tests) <= MOST_SMOKE_TESTS


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their bare names."""
    names = [path.name for path in FILES if path.name.startswith("test_")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_test_chooses_its_set_by_hand() -> None:
    for path in FILES:
        assert not re.search(rf"mark\.({'|'.join(REAL)})\b", path.read_text()), path


def test_every_set_has_a_target_and_ci_runs_each() -> None:
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    assert {line.partition(":")[0] for line in listed} == {*REAL, "slow", "seeds"}
    for name in REAL:
        assert re.search(rf"^test-{name}:.*\n.*pytest.*-m \"?{name}\b", makefile, re.MULTILINE), name
    others = "not slow and not seeds and not processes and not net and not programs"
    assert re.search(rf'^test:.*\n.*-m "{others}"', makefile, re.MULTILINE)
    assert re.search(r'^test-seeds:.*\n.*-m "seeds and not slow"', makefile, re.MULTILINE)
    for target in ("lint", "test", "test-seeds", "fuzz", *(f"test-{name}" for name in REAL)):
        assert re.search(rf"^make {target}$", ci, re.MULTILINE), target


def tight_limits(tree: ast.Module) -> list[int]:
    """Lines with a literal time limit below SHORTEST_LIMIT, except under a virtual clock."""
    virtual = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(argument.arg == "autojump_clock" for argument in node.args.args)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.lineno not in virtual]
    return [call.lineno for call in calls if any(map(_is_tight, _limits(call)))]


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _limits(call: ast.Call) -> list[ast.expr]:
    positional = call.args if _name(call) in WAITS else []
    return [*positional, *(word.value for word in call.keywords if word.arg == "timeout" and _name(call) in CALLS)]


def _is_tight(limit: ast.expr) -> bool:
    value = limit.value if isinstance(limit, ast.Constant) else None
    return isinstance(value, int | float) and 0 < value < SHORTEST_LIMIT


def test_a_limit_on_wall_time_is_for_liveness_only() -> None:
    tight = {str(path): lines for path, tree in FILES.items() if (lines := tight_limits(tree))}
    assert tight == {}, "use LIVENESS_LIMIT of tests/harness/limits.py"
