"""The tree keeps its shape: short files, short functions, few arguments, and no two public classes of one name.

Tests have the same shape, but for names: two of them may call their workers alike.
"""

from __future__ import annotations

import ast
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = (
    *("membership", "ring", "gossip", "discovery", "client", "sidecar", "worker", "simulations", "cli"),
    *("bench", "model", "docs"),
)
ALL = (*OURS, "recording", "tests")
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 50
MEDIAN_LINES_OF_A_FUNCTION = 7
MOST_ARGUMENTS = 8
"""Of a constructor, without ``self``."""

TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text())
    for folder in ALL
    for path in sorted((ROOT / folder).rglob("*.py"))
}


OWN_TREES = {path: tree for path, tree in TREES.items() if path.parts[0] in OURS}


def functions(trees: Mapping[Path, ast.Module]) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, decorators not counted."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    taken = function.args
    return len(taken.posonlyargs + taken.args + taken.kwonlyargs) - 1


def test_files_are_short() -> None:
    counted = {path: len((ROOT / path).read_text().splitlines()) for path in TREES}
    assert [f"{path}:{count}" for path, count in counted.items() if count > MOST_LINES_OF_A_FILE] == []


def test_functions_are_short() -> None:
    long = [
        f"{path}:{one.lineno} {one.name}" for path, one in functions(TREES) if lines(one) > MOST_LINES_OF_A_FUNCTION
    ]
    assert long == []
    assert statistics.median(lines(one) for _, one in functions(OWN_TREES)) <= MEDIAN_LINES_OF_A_FUNCTION


def test_constructors_take_few_arguments() -> None:
    constructors = [(path, one) for path, one in functions(TREES) if one.name == "__init__"]
    assert [f"{path}:{one.lineno}" for path, one in constructors if arguments(one) > MOST_ARGUMENTS] == []


def test_no_two_public_classes_have_one_name() -> None:
    places = defaultdict(list)
    for path, tree in OWN_TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{path}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
