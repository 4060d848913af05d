"""Explores the models with spin: every state within their bounds, and then each model with one rule removed.

    python -m model.explore

It exits with 1 where a model breaks its promise, or where one with a removed rule keeps it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

FOLDER = Path(__file__).parent
RULES = {
    name: int(number)
    for name, number in re.findall(r"^#define (\w+) (\d+)$", (FOLDER / "rules.h").read_text().split("#ifndef")[0], re.M)
    if name != "NOTHING"
}
"""The rules that can be removed, with their numbers in rules.h."""
MOST_MEGABYTES = 6000
DEEPEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Exploration:
    """One model with its bounds, perhaps with a rule removed."""

    model: str
    bounds: tuple[str, ...] = ()
    removed: str = ""

    @property
    def title(self) -> str:
        return " ".join([self.model, *self.bounds, *([f"without {self.removed}"] if self.removed else [])])


@dataclass(frozen=True, slots=True)
class ExplorationResult:
    """What spin found."""

    states: int
    transitions: int
    depth: int
    seconds: float
    violation: str
    """The promise that is broken; empty if none is."""
    complete: bool
    """Whether every state within the bounds was seen."""


MERGE = Exploration("merge")
VOTES = Exploration("members", ("N=3", "LIVES=1", "INCS=2", "MISSES=2", "CRASHES=0"))
RESTART = Exploration("members", ("N=3", "LIVES=2", "INCS=2", "MISSES=1", "CRASHES=1"))
NAMES = Exploration("names", ("OBSERVERS=2",))
MODELS = (MERGE, VOTES, RESTART, NAMES)
OF_MERGE = ("LIVENESS_WORSENS", "INCARNATION_FIRST", "GENERATION_FIRST")
OF_NAMES = ("HOLDER_KEEPS_NAME", "PENDING_WAITS")


def sabotages() -> list[Exploration]:
    """Each rule removed, from the models that rest on it."""
    of_votes = [rule for rule in RULES if rule not in (*OF_NAMES, "GENERATION_FIRST")]
    models = ((MERGE, OF_MERGE), (VOTES, of_votes), (RESTART, ["GENERATION_FIRST"]), (NAMES, OF_NAMES))
    return [replace(model, removed=rule) for model, rules in models for rule in rules]


def explore(one: Exploration, folder: Path) -> ExplorationResult:
    """Generate, compile and run the model's verifier. Raises subprocess.CalledProcessError where that fails."""
    defines = [f"-D{bound}" for bound in one.bounds]
    if one.removed:
        defines.append(f"-DSABOTAGE={RULES[one.removed]}")
    for source in (f"{one.model}.pml", "rules.h"):
        (folder / source).write_bytes((FOLDER / source).read_bytes())
    _run(["spin", *defines, "-a", f"{one.model}.pml"], folder)
    level = "-O0" if one.removed else "-O2"  # a violation is found sooner than a compiler optimizes
    _run(["gcc", level, "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MOST_MEGABYTES}", "-o", "pan", "pan.c"], folder)
    begun = time.monotonic()
    said = _run(["./pan", f"-m{DEEPEST}"], folder)
    return _result(said, time.monotonic() - begun)


def _run(argv: Sequence[str], folder: Path) -> str:
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True).stdout


def _result(said: str, seconds: float) -> ExplorationResult:
    def number(pattern: str) -> int:
        found = re.search(pattern, said)
        return int(float(found[1])) if found else 0

    broken = re.search(r"pan:\d+: (assertion violated .*) \(at depth", said)
    errors = number(r"errors: (\d+)")
    return ExplorationResult(
        states=number(r"([\d.e+]+) states, stored"),
        transitions=number(r"([\d.e+]+) transitions"),
        depth=number(r"depth reached (\d+)"),
        seconds=seconds,
        violation=(broken[1] if broken else "an error") if errors else "",
        complete="Search not completed" not in said and "max search depth too small" not in said,
    )


def _explore_apart(one: Exploration) -> ExplorationResult:
    """In a folder of its own: what spin and gcc write has the same names for every model."""
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        return explore(one, Path(folder))


def _tell(one: Exploration, found: ExplorationResult) -> bool:
    """Print a line, and say whether the exploration ended as it should."""
    right = bool(found.violation) if one.removed else found.complete and not found.violation
    end = found.violation or ("every state seen, no promise broken" if found.complete else "NOT EVERY STATE SEEN")
    sys.stdout.write(
        f"{'ok  ' if right else 'FAIL'} {one.title}: {found.states} states, {found.transitions} transitions, "
        f"depth {found.depth}, {found.seconds:.1f} s: {end}\n"
    )
    sys.stdout.flush()
    return right


def main() -> int:
    explorations = (*MODELS, *sabotages())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        right = [_tell(*pair) for pair in zip(explorations, pool.map(_explore_apart, explorations), strict=True)]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
