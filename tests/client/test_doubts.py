"""A worker that fails a client is doubted, so that its sidecar looks at once."""

from __future__ import annotations

from callers import KEYED, calling
from stage import die, stage, until_true
from test_client_decisions import worker

from rumormill.client.discovery.doubts import MAX_DOUBTED, REPEAT_AFTER, Doubts


def test_a_doubt_is_told_until_a_sidecar_has_answered():
    doubts = Doubts()
    assert doubts.header() is None
    assert doubts.add(worker("w0"), 0.0)
    value = doubts.header()
    assert value == worker("w0").instance[:16] == doubts.header()
    assert doubts.add(worker("w1"), 0.1)
    doubts.confirm(value)
    assert doubts.header() == worker("w1").instance[:16]


def test_one_worker_is_doubted_once_in_a_while_however_often_it_fails():
    doubts = Doubts()
    times = [number * REPEAT_AFTER / 10 for number in range(31)]
    assert [at for at in times if doubts.add(worker("w0"), at)] == [times[0], times[10], times[20], times[30]]


def test_a_query_names_no_more_than_sidecars_read():
    doubts = Doubts()
    for number in range(3 * MAX_DOUBTED):
        doubts.add(worker(f"w{number}", instance=f"{number:032x}"[::-1]), 0.0)
    told = []
    while (value := doubts.header()) is not None:
        told.append(len(value.split(",")))
        doubts.confirm(value)
    assert told == [MAX_DOUBTED] * 3


async def test_a_sidecar_hears_at_once_and_once_of_a_worker_that_fails():
    async with stage() as scene, calling(scene, replay="always") as (_, http):
        first = scene.owners("user-1")[0]
        first.behaviour = die
        doubts = scene.sidecars[0].activity.doubts
        for _ in range(5):
            await http.post("/", content=b"x", headers=KEYED)
        await until_true(lambda: bool(doubts))
        assert doubts == [scene.members[first.name].instance[:8]]
