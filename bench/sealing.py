"""What sealing, opening and signing cost, and how often an idle pool does the last."""

from __future__ import annotations

import os
import random
import time
import timeit
from collections.abc import Callable

from rumormill.gossip import KeyRing, Node
from rumormill.gossip.security.credentials import MemberKeys, record_text, signed_by, verify_record
from rumormill.gossip.security.group_key import _group_keys
from rumormill.gossip.security.seal import Seal, label_hash
from rumormill.membership import MemberState
from rumormill.simulations import World
from rumormill.simulations.factories import CLUSTER

HEARTBEAT = 20
"""Bytes of a quiet heartbeat's payload."""


def main() -> None:
    keyring = KeyRing((os.urandom(32),))
    alice, bob = MemberKeys.generate(os.urandom), MemberKeys.generate(os.urandom)
    out, into = Seal(keyring, "bench", alice), Seal(keyring, "bench", bob)
    out.add_peer(bob.public)
    into.add_peer(alice.public)
    for size in (HEARTBEAT, 1300):
        payload = os.urandom(size)
        _tell(f"seal, {size} B", lambda payload=payload: out.seal(bob.member_id, payload))
        _tell(
            f"seal, read the header, check the window, open, {size} B",
            lambda payload=payload: _both(out, into, payload),
        )
    _tell("the first datagram of a pair, at one end", lambda: _first(keyring, alice, bob), 300)
    row, label = _some_row(), label_hash(CLUSTER)
    text = record_text(label, row.encoded)
    _tell("sign a record", lambda: alice.sign(text), 1000)
    _tell(
        "check a record never seen",
        lambda: signed_by(row, alice.sign(os.urandom(32)), text),
        1000,
        less="sign a record",
    )
    _tell("check one seen before", lambda: verify_record(row, label, None))
    _idle()


_figures: dict[str, float] = {}


def _tell(what: str, act: Callable[[], object], count: int = 20_000, *, less: str = "") -> None:
    """The best of five rounds: what else the machine does only ever adds. ``less`` takes another figure off."""
    best = min(timeit.repeat(act, number=count, repeat=5)) / count * 1e6 - _figures.get(less, 0.0)
    _figures[what] = best
    print(f"{what:62} {best:8.2f} µs", flush=True)


def _both(out: Seal, into: Seal, payload: bytes) -> bytes:
    datagram = out.seal(into.member_id, payload)
    sender, _ = into.claimed_ids(datagram)
    return into.open(datagram, sender)


def _first(keyring: KeyRing, alice: MemberKeys, bob: MemberKeys) -> bytes:
    _group_keys.clear()  # nothing derived so far is known to the next seal
    seal = Seal(keyring, "bench", alice)
    seal.add_peer(bob.public)
    return seal.seal(bob.member_id, b"")


def _some_row() -> MemberState:
    world = World(seed=1)
    world.start(1)
    node = world.node("n0")
    assert isinstance(node, Node)
    return next(iter(node.table))


def _idle(seconds: float = 60.0, nodes: int = 16) -> None:
    """A quiet pool's CPU time, and how many signatures were checked in it: what is never done costs nothing."""
    world = World(seed=random.randrange(1000))
    world.start(nodes)
    world.run(10.0)
    running = [node for node in world.running().values() if isinstance(node, Node)]
    checked = sum(node.counters["checked_signatures"] for node in running)
    began = time.process_time()
    world.run(seconds)
    spent = (time.process_time() - began) / nodes / seconds
    checked = sum(node.counters["checked_signatures"] for node in running) - checked
    print(f"{'idle, a node, a second (with the simulated network)':62} {spent * 1e6:8.0f} µs")
    print(f"{f'signatures checked by {nodes} idle nodes in {seconds:.0f} s':62} {checked:8}")
