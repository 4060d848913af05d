"""Charges and conversations on real workers (uvicorn) and a real Redis, while both are killed. As bench/effects.py."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from limits import LIVENESS_LIMIT
from redis_server import DURABLE, redis_server

from bench.effects import SCENARIOS, Scenario, measure, measure_conversations, report
from bench.effects_load import Callers, wait_for_port
from bench.ports import reserved_port

CHARGES = 400
SEED = 7

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="redis-server is not installed; as root, `make test-programs` installs it",
)


def scenario(title: str) -> Scenario:
    return next(one for one in SCENARIOS if one.title == title)


@pytest.mark.parametrize(
    "title",
    [
        "middleware, a takeover looks first",
        "middleware, effect unique by key; freezes too",
        "a takeover looks first; Redis killed for 3 s",
    ],
)
def test_every_charge_acts_exactly_once(title: str) -> None:
    found = measure(scenario(title), CHARGES, SEED)
    print(report(scenario(title), found))
    assert found.acted == {1: CHARGES}
    assert set(found.final) == {"200"}
    assert found.faults.total() > 0


def test_at_most_once_no_charge_acts_twice_and_those_that_are_unsure_say_so() -> None:
    found = measure(scenario("middleware, at most once"), CHARGES, SEED)
    print(report(scenario("middleware, at most once"), found))
    assert found.twice == 0
    assert set(found.final) <= {"200", "409 unknown-outcome"}
    assert found.never <= found.final["409 unknown-outcome"]


def test_without_the_middleware_charges_act_twice() -> None:
    """The load would show it."""
    assert measure(scenario("no middleware"), CHARGES, SEED).twice > 0


def test_a_conversation_goes_on_at_any_worker_over_kills() -> None:
    right, done = measure_conversations(100, SEED)
    assert right == 100
    assert done["kills"] > 0


ON_TRIO = """
import sys, hypercorn.config, hypercorn.trio, trio
from bench.effects_worker import ChargingWorker
from rumormill.worker import Idempotency, InThreads, Sessions
from rumormill.worker.redis_store import SyncRedisStore
from pathlib import Path

store = InThreads(SyncRedisStore.from_url(sys.argv[1]))
config = hypercorn.config.Config()
config.bind = [f"127.0.0.1:{sys.argv[2]}"]
app = Idempotency(ChargingWorker(Path(sys.argv[3]), "plain", Sessions(store)), store)
trio.run(hypercorn.trio.serve, app, config)
"""


def test_the_same_under_hypercorn_on_trio(tmp_path: Path) -> None:
    port = reserved_port()
    (tmp_path / "charges").mkdir()
    with redis_server(tmp_path, **DURABLE) as server:
        command = [sys.executable, "-c", ON_TRIO, server.url, str(port), str(tmp_path / "charges")]
        callers = Callers([port], random.Random(SEED))
        worker = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        try:
            wait_for_port(port, worker)
            for _ in range(3):
                assert callers.ask("/charge", {"id": "one"}) == (200, {"charged": "one"})
            turns = [callers.ask("/turn", {"session": "s", "id": f"t{n}", "text": n})[1]["before"] for n in range(3)]
        finally:
            callers.close()
            worker.kill()
            worker.wait(LIVENESS_LIMIT)
    assert (tmp_path / "charges" / "one").read_bytes() == b"x"
    assert turns == [[], [0], [0, 1]]
