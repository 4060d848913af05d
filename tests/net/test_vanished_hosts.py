"""All hosts but one of a small pool vanish at once, and nothing refuses: the survivor's callers lose no request."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from limits import LIVENESS_LIMIT
from sidecar_pools import pool

from bench.netns_testbed import Bed
from bench.peers.callers import CallerOn, end_process, start_worker
from bench.peers.rumormill import WORKER_PORT

ASK = """
import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:7380" + sys.argv[1]).read().decode())
"""
KEYS = 20


def ask(bed: Bed, path: str) -> Any:
    """The survivor's answer; fails unless its status is 2xx."""
    argv = bed.command(bed[0], [sys.executable, "-c", ASK, path])
    return json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)


def first_owners(bed: Bed) -> set[str]:
    lookups = [ask(bed, f"/v1/lookup?service=embed&key=user-{number}") for number in range(KEYS)]
    return {lookup["owners"][0]["name"] for lookup in lookups}


@pytest.mark.parametrize("size", [3, 4])
def test_the_survivor_stays_ready_and_its_callers_lose_nothing(size: int, tmp_path: Path) -> None:
    with pool(size) as (members, bed), ExitStack() as stack:
        survivor, *lost = members.members
        workers = {member.name: start_worker(bed, member.host, member.name) for member in members.members}
        for worker in workers.values():
            stack.callback(end_process, worker)
        caller = CallerOn(bed, survivor.host, tmp_path)
        stack.callback(caller.close)
        time.sleep(1.0)
        for member in lost:
            bed.silence(member.host, members.system.port)
            bed.silence(member.host, WORKER_PORT)
        for member in lost:
            members.kill(member)
            end_process(workers[member.name])
        deadline = time.monotonic() + LIVENESS_LIMIT
        while first_owners(bed) != {survivor.name}:
            assert time.monotonic() < deadline
        assert ask(bed, "/readyz")["ok"]
        answer = ask(bed, "/v1/pool?service=embed")
        assert (answer["suspect"], answer["failures_to_spare"]) == (size - 1, 0)
        time.sleep(1.0)
        outcomes = caller.finish()
        assert outcomes
        assert [outcome for outcome in outcomes if outcome["trouble"] or outcome["wrong"]] == []
