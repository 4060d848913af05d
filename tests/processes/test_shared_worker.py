"""Two agents beside one worker: both say so, and so does whoever is asked for the members."""

from __future__ import annotations

from dataclasses import replace

from agents import pool, rumormill

from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.view import Member
from rumormill.sidecar.shared_worker import members_sharing_worker


async def test_two_agents_that_name_one_worker_are_told_everywhere() -> None:
    async with pool(2) as ([w1, w2], worker):
        for agent, other in ((w1, "w2"), (w2, "w1")):
            line = await agent.logged("shared worker")
            assert line["level"] == "warning"
            assert line["url"] == worker.url
            assert line["members"] == [agent.name, other]
            assert (await agent.ask("/v1/status"))["shares_worker_with"] == [other]
            told = await rumormill("members", "--http", agent.http)
            assert f"w1 and w2 name the same worker, {worker.url}: it gets the load of 2" in told.stdout
            assert other in (await rumormill("status", "--http", agent.http)).stdout.split("worker shared with")[1]


def test_none_is_told_of_what_is_no_worker_of_two() -> None:
    own = Member(
        name="w1",
        generation=2,
        instance=b"w1",
        incarnation=1,
        address=("127.0.0.1", 7946),
        service="embed",
        url="http://a:9001",
        zone="",
        release="",
        weight=1000,
        readiness=Readiness.PASSING,
        tags={},
        liveness=Liveness.ALIVE,
        pending=False,
        since=0.0,
        why="",
    )
    twin = replace(own, name="w2", instance=b"w2")
    others = (
        replace(twin, service="chat"),
        replace(twin, url="http://a:9002"),
        replace(twin, liveness=Liveness.DEAD),
        replace(twin, pending=True),
        replace(twin, name="w1"),
    )
    assert members_sharing_worker(b"w1", (own, *others)) == ()
    assert members_sharing_worker(b"w1", (own, *others, twin)) == ("w2",)
    assert members_sharing_worker(b"w3", (own, twin)) == ()
