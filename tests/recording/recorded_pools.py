"""Pools in the lab whose every member is recorded, and what playing their records shows."""

from __future__ import annotations

import io

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import KeyRing
from rumormill.recording.player import Player, PlayOutcome
from rumormill.recording.reader import FlightRecord, read_record_untrusted
from rumormill.recording.recorder import RecordedNode
from rumormill.simulations import World
from rumormill.simulations.factories import KEYS, RumormillFactory
from rumormill.simulations.protocol import NodeStart

LIMIT = 16 << 20


class RecordedFactory(RumormillFactory):
    """Makes the production Node with its flight recorder."""

    def __call__(self, start: NodeStart) -> RecordedNode:
        return RecordedNode(
            self.config(start), rng=start.rng, token_bytes=start.token_bytes, now=start.now, limit=LIMIT
        )


def recorded_pool(count: int, seed: int, keyring: KeyRing | None = KEYS) -> World:
    """A pool of recorded members that have found one another."""
    world = World(seed=seed, factory=RecordedFactory(keyring=keyring))
    world.start(count)
    assert world.run_until(world.one_view, within=5.0) is not None, f"seed {seed}: {world.history.tail()}"
    return world


def recorded(world: World, key: str) -> RecordedNode:
    node = world.node(key)
    assert isinstance(node, RecordedNode)
    return node


def record_of(world: World, key: str) -> FlightRecord:
    return read_record_untrusted(io.BytesIO(recorded(world, key).recorder.dump()))


def play(record: FlightRecord) -> list[PlayOutcome]:
    return [Player(segment, POLICY_SCHEMA).run() for segment in record.segments]
