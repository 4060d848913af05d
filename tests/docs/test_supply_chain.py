"""What is shipped is what is pinned, listed, and built by a workflow that a linter accepts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "deploy" / "container"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
BIN = Path(sys.executable).parent


def pinned(name: str) -> dict[str, str]:
    """Versions by package, each with at least one hash."""
    entries = re.findall(
        r"^([a-z0-9._-]+)==(\S+) \\((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)", LOCKS[name], re.MULTILINE
    )
    return {package: version for package, version, _ in entries}


LOCKS = {name: (CONTAINER / name).read_text() for name in ("requirements.lock", "build.lock")}


def test_every_dependency_is_pinned_by_hash() -> None:
    locked = pinned("requirements.lock")
    assert len(locked) == LOCKS["requirements.lock"].count("==")
    wanted = {re.split(r"[<>=]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert wanted <= set(locked), "run `make lock`"
    assert {"build", "setuptools"} <= set(pinned("build.lock"))


def test_the_bill_of_materials_is_that_of_the_lock_file() -> None:
    bill = json.loads((CONTAINER / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {part["name"]: part["version"] for part in bill["components"]} == pinned("requirements.lock"), (
        "run `make lock`"
    )
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]


def test_the_lock_files_name_no_index() -> None:
    assert not any(word in text for text in LOCKS.values() for word in ("index-url", "find-links", "file://"))


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_the_workflow_is_one(schema: str) -> None:
    subprocess.run([BIN / "check-jsonschema", "--builtin-schema", schema, WORKFLOW], check=True, capture_output=True)


def test_the_workflow_has_no_known_weakness_and_runs_every_python_that_we_name() -> None:
    done = subprocess.run(
        [BIN / "zizmor", "--offline", "--quiet", WORKFLOW], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"python: \[\"3.11\", \"3.12\", \"3.13\", \"3.14\"\]", WORKFLOW.read_text())
    assert "- run: .ci/run" in WORKFLOW.read_text()
