"""The Dockerfile, as a linter for it sees it, and as its own text promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shell import ROOT

DOCKERFILE = ROOT / "deploy" / "container" / "Dockerfile"
IGNORED = DOCKERFILE.with_suffix(".dockerignore")


def test_a_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "info", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_what_it_copies_is_in_the_context_and_not_ignored() -> None:
    kept = {line[1:] for line in IGNORED.read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    rooms = {path.parent.name for path in ROOT.glob("*/py.typed")} | {"worker"}
    assert rooms <= kept, "the wheel is built from all rooms"


def test_it_runs_without_root_and_without_a_shell() -> None:
    last = DOCKERFILE.read_text().rpartition("FROM ")[2]
    assert "USER 65532:65532" in last
    assert 'ENTRYPOINT ["rumormill"]' in last
    assert "RUN" not in last
