"""Real sidecars on hosts of their own, and packets that really get lost. What must not come is awaited for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from limits import LIVENESS_LIMIT
from sidecar_pools import pool

from bench.peers.pool import PeerEvent, PeerPool

A_WHILE = 6.0


def evictions(pool: PeerPool) -> list[PeerEvent]:
    return [event for event in pool.observed if event.kind == "gone"]


def nobody_is_evicted(pool: PeerPool) -> bool:
    """For a while."""
    return not pool.until(lambda: bool(evictions(pool)), A_WHILE)


def test_a_host_that_falls_silent_is_evicted_everywhere() -> None:
    with pool(5) as (members, bed):
        victim = members.members[2]
        bed.silence(victim.host, members.system.port)
        members.kill(victim)
        members.settle()
        assert {event.who for event in evictions(members)} == {victim.name}


def test_a_tenth_of_everything_lost_evicts_nobody() -> None:
    with pool(8) as (members, bed):
        bed.lose(0.1)
        assert nobody_is_evicted(members)


def test_a_cut_of_one_direction_evicts_nobody() -> None:
    with pool(6) as (members, bed):
        bed.cut(bed[1], bed[4])
        assert nobody_is_evicted(members)
        assert members.one_view()


def connectivity(pool: PeerPool, number: int) -> str:
    """What a member says of itself."""
    verb = [sys.executable, "-c", "from rumormill.cli.main import main; main()", "status", "-o", "json"]
    done = subprocess.run(pool.bed.command(pool.bed[number], verb), stdout=subprocess.PIPE, check=True)
    status = json.loads(done.stdout)
    assert status["isolated"] == (status["connectivity"] != "connected")
    return str(status["connectivity"])


@pytest.mark.parametrize(("word", "outbound"), [("mute", True), ("deaf", False)])
def test_who_is_cut_off_one_way_says_in_which(word: str, outbound: bool) -> None:
    with pool(6) as (members, bed):
        for number in (0, 2, 3, 4, 5):
            ends = (bed[1], bed[number]) if outbound else (bed[number], bed[1])
            bed.cut(*ends)
        members.until(lambda: connectivity(members, 1) == word, LIVENESS_LIMIT, f"it says that it is {word}")
        begun, before = time.monotonic(), bed.sent(members.system.port)[bed[1]][0]
        assert not members.until(lambda: connectivity(members, 1) != word, A_WHILE)
        rate = (bed.sent(members.system.port)[bed[1]][0] - before) / (time.monotonic() - begun)
        assert rate < 40, "at rest it sends 17 a second"
        assert connectivity(members, 3) == "connected"
        bed.mend()
        members.until(
            lambda: connectivity(members, 1) == "connected" and members.one_view(), LIVENESS_LIMIT, "it is back"
        )


def test_two_halves_go_their_own_ways_and_find_together_again() -> None:
    with pool(6) as (members, bed):
        halves = bed.hosts[:3], bed.hosts[3:]
        names = [{member.name for member in members.members if member.host in half} for half in halves]
        bed.split(*halves)
        parted = lambda: all(m.view | {m.name} in names for m in members.members)  # noqa: E731
        members.until(parted, LIVENESS_LIMIT, "each half on its own")
        bed.mend()
        members.until(members.one_view, LIVENESS_LIMIT, "one view again")


def test_a_newcomer_gets_in_through_heavy_loss() -> None:
    with pool(4) as (members, bed):
        bed.lose(0.3)
        members.kill(members.members[3])
        members.start(bed[3])
        members.settle()


def test_long_ways_are_no_reason_to_evict_and_a_crash_over_them_is() -> None:
    with pool(4, delay=0.05, jitter=0.02) as (members, _):
        assert nobody_is_evicted(members)
        victim = members.members[0]
        members.kill(victim)
        members.settle()
        assert {event.who for event in evictions(members)} == {victim.name}
