"""A verb starts quickly: it imports what it needs, and none of the heavy packages that others need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "anyio",
    "asyncio",
    "cryptography",
    "httpx2",
    "importlib.metadata",
    "rich",
    "rumormill.client",
    "rumormill.gossip",
    "rumormill.sidecar.agent",
    "rumormill.simulations",
    "structlog",
    "trio",
)
PROGRAM = """
import sys
from rumormill.cli.exit_codes import Unreachable
from rumormill.cli.main import rumormill
try:
    rumormill([*sys.argv[1:], "--http", "http://127.0.0.1:1"], standalone_mode=False)
except Unreachable:
    print(*sorted(set(sys.modules)))
"""


PLAIN = [
    "members",
    "workers",
    "lookup k",
    "events",
    "status",
    "watch",
    "drain",
    "undrain",
    "weight 1",
    "leave",
    "reload",
]
WITH_FILES = ["canary show", "maintenance show", "zone show", "doctor"]
"""They read settings or keys as an agent does."""


@pytest.mark.parametrize("verb", [*PLAIN, *WITH_FILES])
def test_asking_a_sidecar_needs_no_heavy_package(verb: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *verb.split()], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"click", "http.client", "rumormill.cli.http_client"} <= imported, "the verb has not been run"
    assert imported.isdisjoint(HEAVY), sorted(imported.intersection(HEAVY))
    assert verb in WITH_FILES or "rumormill.sidecar" not in imported


@pytest.mark.parametrize("verb", ["agent --help", "config show", "canary run --help", "doctor --help"])
def test_settings_are_read_and_help_is_shown_without_what_an_agent_is_made_of(verb: str) -> None:
    program = "import sys; from rumormill.cli.main import rumormill; rumormill(sys.argv[1:], standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print(*sorted(sys.modules))", *verb.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.splitlines()[-1].split()).isdisjoint(HEAVY)


def test_listing_the_verbs_imports_none_of_them() -> None:
    program = "import sys; from rumormill.cli.main import rumormill; rumormill(['--help'], standalone_mode=False)"
    shown = subprocess.run(
        [sys.executable, "-c", f"{program}; print(*sorted(sys.modules))"], capture_output=True, text=True, check=True
    )
    modules = set(shown.stdout.splitlines()[-1].split())
    assert modules.isdisjoint([*HEAVY, "msgspec", "http.client", "rumormill.cli.queries"])
