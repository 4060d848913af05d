"""Canaries and zones over real HTTP: the policy at the endpoint decides which workers get the requests."""

from __future__ import annotations

import math
import random
from functools import partial

import httpx2
import pytest
import trio
from limits import LIVENESS_LIMIT
from seeds import MORE_SEEDS
from stage import Stage, stage, stage_in_thread

from rumormill.client import Pool, SyncPool
from rumormill.client.connections import upstream
from rumormill.discovery.schema.policy_bodies import ALL_BASIS_POINTS, CanaryPolicy, Share, encode_body
from rumormill.membership.policy import PolicyRecord
from rumormill.ring import CanaryShare

TASKS = 20
REQUESTS = 2_000
LIMIT = 10 * LIVENESS_LIMIT
"""Seconds, for all requests of a test. It only tells a hang from a slow machine."""
STANDARD_ERRORS = 6.5
"""A binomial count is further from its mean than this with a probability below 1e-9."""


def key(number: int) -> str:
    return f"tenant/user-{number}"


async def steered(scene: Stage, share: float) -> None:
    """w2 and w3 run v2, and by the pool's policy that has this share of the keys."""
    body = CanaryPolicy([Share("v2", round(share * ALL_BASIS_POINTS))])
    scene.policies = (PolicyRecord("embed", 1, "w0", 0, encode_body(body)),)
    for name in ("w2", "w3"):
        scene.change(name, release="v2")
    await scene.add_sidecar()


async def ask_many(pool: Pool, requests: int, *, keyed: bool) -> dict[str, int]:
    served: dict[str, int] = {}
    async with httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http:

        async def ask(task: int) -> None:
            for number in range(task, requests, TASKS):
                headers = {"Rumormill-Key": key(number)} if keyed else {}
                name = (await http.get("/", headers=headers)).text
                served[name] = served.get(name, 0) + 1

        async with trio.open_nursery() as nursery:
            for task in range(TASKS):
                nursery.start_soon(ask, task)
    return served


@pytest.mark.parametrize(
    ("share", "keyed"), [(0.25, True), *(pytest.param(*one, marks=MORE_SEEDS) for one in ((0.05, True), (0.25, False)))]
)
async def test_a_canary_gets_its_share_of_real_requests(
    share: float, keyed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real time decides nothing here: no request is hedged, and no connection is given up for being slow.

    How exact the share is over many requests is tested without a network, in test_client_admission.py.
    """
    monkeypatch.setattr(upstream, "CONNECT_LIMIT", LIMIT)
    async with stage(workers=6, sidecars=0, limit=LIMIT) as scene:
        await steered(scene, share)
        async with Pool(scene.urls, "embed", hedge=False, rng=random.Random(0)) as pool:
            assert pool.topology.policy.canary == [CanaryShare("v2", share)]
            served = await ask_many(pool, REQUESTS, keyed=keyed)
            owners = pool.topology.routing.owners_many(map(key, range(REQUESTS)))
    assert sum(served.values()) == REQUESTS
    canary = served["w2"] + served["w3"]
    assert abs(canary - share * REQUESTS) <= STANDARD_ERRORS * math.sqrt(share * (1 - share) * REQUESTS)
    if keyed:
        assert canary == sum(owner.release == "v2" for owner in owners)


def test_threads_share_a_zone_and_leave_it_when_it_has_lost_its_workers() -> None:
    with stage_in_thread(workers=4) as scene:
        for name in ("w0", "w1"):
            scene.do(partial(scene.scene.change, name, zone="b"))
        with (
            SyncPool(scene.scene.urls, "embed", zone="b") as pool,
            httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
        ):
            keys = [key(number) for number in range(40)]

            def asked() -> set[str]:
                return {http.get("/", headers={"Rumormill-Key": one}).text for one in keys}

            assert asked() == {"w0", "w1"}
            assert {pool.owners(one, 1)[0].zone for one in keys} == {"b"}
            for name in ("w0", "w1"):
                scene.do(scene.scene.evict, name)
            while {worker.name for worker in pool.workers} & {"w0", "w1"}:
                pool.changed(pool.topology)
            assert asked() == {"w2", "w3"}
