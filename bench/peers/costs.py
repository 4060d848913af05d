"""What a pool costs at rest, and how long it takes many nodes to join at once."""

from __future__ import annotations

import json
import statistics
import subprocess
import time

from bench.peers.measures import FALSE_EVICTIONS, marks_now, sleep_and_log
from bench.peers.pool import PeerPool
from bench.peers.testbed import OURS, PeerTestbed


def idle(testbed: PeerTestbed, seconds: float) -> None:
    """Measure the cost of an idle pool."""
    marks_now(testbed)
    time.sleep(5.0)
    before = {pool.name: _cost(testbed, pool) for pool in testbed.pools}
    begun = time.monotonic()
    sleep_and_log(testbed, seconds)
    took = time.monotonic() - begun
    for pool in testbed.pools:
        measured = testbed.measurements[pool.name]
        packets, octets, cpu = (
            after - start for after, start in zip(_cost(testbed, pool), before[pool.name], strict=True)
        )
        each = took * testbed.size
        measured.numbers["packets sent /s/node"] = packets / each
        measured.numbers["bytes sent /s/node"] = octets / each
        measured.numbers["CPU s /node-minute"] = cpu * 60 / each
        measured.numbers["RSS MB, median"] = statistics.median(member.rss() for member in pool.members) / 1e6
    if peer := testbed.measurements.get("memberlist"):
        for measured in testbed.measurements.values():
            measured.numbers["CPU beside memberlist's"] = (
                measured.numbers["CPU s /node-minute"] / peer.numbers["CPU s /node-minute"]
            )


def _cost(testbed: PeerTestbed, pool: PeerPool) -> tuple[float, float, float]:
    """Packets and bytes sent, and CPU seconds, of the whole pool so far."""
    sent = testbed.bed.sent(pool.system.port).values()
    return sum(n for n, _ in sent), sum(b for _, b in sent), sum(member.cpu() for member in pool.members)


def crowds(testbed: PeerTestbed, times: int, count: int, limit: float) -> None:
    """Many nodes in one process join one of them at once, at each system in turn; peers take part in every fourth turn.

    Uses no network hosts.
    """
    for turn in range(times):
        for system in testbed.systems:
            if turn % 4 and system.name != OURS:
                continue
            measured = testbed.measurements[system.name]
            done = subprocess.run(
                system.crowd(count, limit), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            measured.samples["joined to one view"].append(found["seconds"])
            measured.add(f"no view a second after it, or none in {limit:g} s", not found["one_view"])
            measured.add(FALSE_EVICTIONS, found["gone"])
        latest = (
            f"{s.name} {testbed.measurements[s.name].samples['joined to one view'][-1]:.2f}" for s in testbed.systems
        )
        testbed.log(f"{turn + 1} of {times}: {', '.join(latest)}")
