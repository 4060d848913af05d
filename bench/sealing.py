"""The cost of sealing, opening and signing, and how many signatures an idle pool verifies."""

from __future__ import annotations

import os
import random
import time
import timeit
from collections.abc import Callable
from functools import partial

from rumormill.gossip import KeyRing, Node
from rumormill.gossip.security.credentials import MemberKeys, record_text, signed_by, verify_record
from rumormill.gossip.security.group_key import _group_keys
from rumormill.gossip.security.seal import Seal, label_hash
from rumormill.membership import MemberState
from rumormill.membership.record import MemberId, Signature
from rumormill.simulations import World
from rumormill.simulations.factories import CLUSTER

HEARTBEAT = 20
"""Bytes of payload of a heartbeat without piggybacked updates."""


def main() -> None:
    keyring = KeyRing((os.urandom(32),))
    alice, bob = MemberKeys.generate(os.urandom), MemberKeys.generate(os.urandom)
    out, into = Seal(keyring, "bench", alice), Seal(keyring, "bench", bob)
    out.add_peer(bob.public)
    into.add_peer(alice.public)
    for size in (HEARTBEAT, 1300):
        payload = os.urandom(size)
        _measure(f"seal, {size} B", partial(out.seal, MemberId(bob.member_id), payload))
        both = partial(_seal_and_open, out, into, payload)
        _measure(f"seal, read the header, check the window, open, {size} B", both)
    _measure("the first datagram to a new peer", lambda: _first_datagram(keyring, alice, bob), 300)
    row, label = _some_row(), label_hash(CLUSTER)
    text = record_text(label, row.encoded)
    _measure("sign a record", lambda: alice.sign(text), 1000)
    _measure(
        "verify a new record",
        lambda: signed_by(row, Signature(alice.sign(os.urandom(32))), text),
        1000,
        less="sign a record",
    )
    _measure("verify a known record", lambda: verify_record(row, label, None))
    _idle()


_figures: dict[str, float] = {}


def _measure(what: str, act: Callable[[], object], count: int = 20_000, *, less: str = "") -> None:
    """The best of five rounds, since other load only adds time. ``less`` subtracts another figure."""
    best = min(timeit.repeat(act, number=count, repeat=5)) / count * 1e6 - _figures.get(less, 0.0)
    _figures[what] = best
    print(f"{what:62} {best:8.2f} µs", flush=True)


def _seal_and_open(out: Seal, into: Seal, payload: bytes) -> bytes:
    datagram = out.seal(MemberId(into.member_id), payload)
    sender, _ = into.claimed_ids(datagram)
    return into.open(datagram, sender)


def _first_datagram(keyring: KeyRing, alice: MemberKeys, bob: MemberKeys) -> bytes:
    _group_keys.clear()  # so that the next seal has no derived keys
    seal = Seal(keyring, "bench", alice)
    seal.add_peer(bob.public)
    return seal.seal(MemberId(bob.member_id), b"")


def _some_row() -> MemberState:
    world = World(seed=1)
    world.start(1)
    node = world.node("n0")
    assert isinstance(node, Node)
    return next(iter(node.table))


def _idle(seconds: float = 60.0, nodes: int = 16) -> None:
    """An idle pool's CPU time, and the number of signatures it verified."""
    world = World(seed=random.randrange(1000))
    world.start(nodes)
    world.run(10.0)
    running = [node for node in world.running().values() if isinstance(node, Node)]
    checked = sum(node.counters["checked_signatures"] for node in running)
    began = time.process_time()
    world.run(seconds)
    spent = (time.process_time() - began) / nodes / seconds
    checked = sum(node.counters["checked_signatures"] for node in running) - checked
    print(f"{'idle, per node and second (with the simulated network)':62} {spent * 1e6:8.0f} µs")
    print(f"{f'signatures checked by {nodes} idle nodes in {seconds:.0f} s':62} {checked:8}")
