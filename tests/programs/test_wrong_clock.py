"""``rumormill doctor`` finds a sidecar whose clock is wrong: one that runs under libfaketime."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import trio
from agents import Agent, Worker, rumormill


async def test_a_sidecar_that_is_an_hour_behind() -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed; as root, `make test-programs` installs it")
    behind = ("env", f"LD_PRELOAD={library}", "FAKETIME=-1h", "FAKETIME_DONT_FAKE_MONOTONIC=1")
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker)
        w2 = await Agent.start(nursery, "w2", worker, before=behind)
        done = await rumormill("doctor", "-o", "json", "--http", w1.http, "--peer", w2.http)
        said = {row["found"]: row["verdict"] for row in json.loads(done.stdout) if row["check"] == "clock"}
        assert said.pop(f"the clock of {w1.http} agrees with this machine's") == "ok"
        ((found, verdict),) = said.items()
        assert verdict == "warning"
        assert re.fullmatch(
            rf"the clock of {re.escape(w2.http)} is 3(600|59[0-9]|60[0-9]) s behind this machine's", found
        )
        nursery.cancel_scope.cancel()
