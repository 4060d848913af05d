"""Attackers of a pool, and their means."""

from __future__ import annotations

import random

from pools import node, pool

from rumormill.gossip import Node
from rumormill.gossip.dissemination.update_encoder import UpdateEncoder
from rumormill.gossip.security.credentials import MemberKeys, record_text
from rumormill.gossip.wire import Message, encode_message
from rumormill.membership import Address, Liveness, MemberState, Record, encode_record, member_state_of_record_untrusted
from rumormill.simulations import World
from rumormill.simulations.host import SimulatedHost

Account = tuple[bytes, int, int, Liveness, bytes]


def aged(count: int, seed: int = 1) -> World:
    """A pool in which all members have known each other for more than a minute."""
    world = pool(count, seed)
    world.run(61.0)
    return world


def with_mallory(count: int = 4) -> World:
    """An old pool with one new member, mallory, who holds the group key."""
    world = aged(count)
    world.start_one("mallory")
    assert world.run_until(world.one_view, within=3.0) is not None
    return world


def say(world: World, speaker: str, *messages: Message | bytes, to: tuple[str, ...] = ()) -> None:
    """A member sends any messages it likes, under its own seal, to some or all of the others."""
    state = node(world, speaker)._state
    encoded = [message if isinstance(message, bytes) else encode_message(message) for message in messages]
    for member_id in list(state.table.present_ids):
        row = state.table.get(member_id)
        assert row is not None
        if member_id != state.me.member_id and (not to or row.name in to):
            state.send_encoded(row, encoded)
    world.hosts[speaker].poke()


def row_of(world: World, observer: str, name: str) -> MemberState:
    row = node(world, observer).table.settled[name]
    assert row.record is not None
    return row


def record_of(world: World, observer: str, name: str) -> Record:
    record = row_of(world, observer, name).record
    assert record is not None
    return record


def forged(signer: Node | MemberKeys, record: Record, label: bytes) -> bytes:
    """A record as a message, signed with keys that may not be its subject's."""
    keys = signer._state.identity.keys if isinstance(signer, Node) else signer
    encoded = encode_record(record)
    row = member_state_of_record_untrusted(encoded, keys.sign(record_text(label, encoded)))
    return UpdateEncoder.alive(row)


def accounts(world: World, name: str, but: tuple[str, ...] = ("mallory",)) -> dict[str, list[Account]]:
    """The rows that all but the attacker hold of a name, as bytes."""
    return {
        key: sorted(
            (row.instance, row.generation, row.incarnation, row.liveness, row.encoded)
            for row in node(world, key).table.states_of(name)
        )
        for key in world.running()
        if key not in but
    }


class Recorder:
    """Records every datagram that was ever sent, and its sender's address. Holds no key."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.datagrams: list[tuple[bytes, Address]] = []
        world.network.on_send = self._note

    def _note(self, host: SimulatedHost, to: Address, data: bytes) -> None:
        self.datagrams.append((data, host.address))

    def stop(self) -> None:
        self._world.network.on_send = None

    def replay(self, to: str, seed: int, sample: int = 10**9) -> None:
        """Replay everything to one member, in another order and faster than it was sent."""
        rng = random.Random(seed)
        chosen = rng.sample(self.datagrams, min(sample, len(self.datagrams)))
        for start in range(0, len(chosen), 200):
            for data, source in chosen[start : start + 200]:
                self._world.inject(data, to, source)
            self._world.run(0.01)
