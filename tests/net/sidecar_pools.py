"""Pools of real sidecars, each on a host of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from bench.netns_testbed import Bed
from bench.peers.pool import PeerPool
from bench.peers.rumormill import Rumormill
from bench.peers.systems import Conditions
from bench.peers.testbed import Measurements, PeerTestbed


@contextmanager
def pool(size: int, **link: float) -> Iterator[tuple[PeerPool, Bed]]:
    """Sidecars with one view."""
    system = Rumormill()
    system.prepare()
    measurements = {system.name: Measurements()}
    with PeerTestbed([system], size, Conditions(**link), random.Random(1), lambda _: None, measurements) as testbed:
        yield testbed.pools[0], testbed.bed
