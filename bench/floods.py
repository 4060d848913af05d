"""The CPU time that one datagram of a flood costs its victim and its sender.

Two members use real loopback sockets in one thread. The sender's cost is sealing, if the flood needs it, and
``sendto``. The victim's cost is its transport's turn, including timers and answers. On loopback the sender also pays
for the kernel's delivery; the figures without sockets leave that out. The victim holds the rows of ``MEMBERS`` members,
so no cost is low only because its table is empty.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator

import msgspec

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import KeyRing, Node, NodeConfig, Profile
from rumormill.gossip.dissemination.update_encoder import UpdateEncoder
from rumormill.gossip.security.credentials import MemberKeys, record_text
from rumormill.gossip.security.seal import HEADER, STRANGER
from rumormill.gossip.udp.transport import GossipTransport, bind_udp, boot_clock
from rumormill.gossip.wire import Dead, SignedVote, SyncDigest, VoteMessage, encode_message
from rumormill.membership.member_state import MemberState, member_state_of_record_untrusted
from rumormill.membership.record import Readiness, Record, Signature, encode_record

MEMBERS = 64
BATCH = 200
BATCHES = 60
Flood = Callable[[], bytes]


class BenchMember:
    """A member that the bench drives step by step."""

    def __init__(self, name: str, key: bytes) -> None:
        self.sock = bind_udp(("127.0.0.1", 0))
        self.address = self.sock.getsockname()[:2]
        self.node = Node(
            NodeConfig(
                policy_schema=POLICY_SCHEMA,
                name=name,
                address=self.address,
                cluster="bench",
                profile=Profile(service="s", url="http://127.0.0.1:9", readiness=Readiness.PASSING),
                keyring=KeyRing((key,)),
            ),
            rng=random.Random(name),
            token_bytes=os.urandom,
            now=boot_clock(),
        )
        self.transport = GossipTransport(self.node, self.sock, on_change=lambda: None, on_events=lambda _: None)

    def row_of(self, name: str) -> MemberState:
        return self.node.table.settled[name]


def main() -> None:
    key = os.urandom(32)
    victim, mallory = BenchMember("victim", key), BenchMember("mallory", key)
    mallory.node.set_seeds([victim.address])
    until = boot_clock() + 5
    while len(victim.node.table) < 2 or len(mallory.node.table) < 2:
        _turn(victim, mallory)
        assert boot_clock() < until, "the two members have not joined"
    _fill(victim, mallory)
    print(f"{'':44} {'sender':>8} {'victim':>8}  {'ratio':>5} {'without sockets':>18}  {'ratio':>5}")
    for what, flood in _floods(victim, mallory):
        _settle(victim, mallory)
        _measure(what, victim, mallory, flood)


def _turn(*members: BenchMember) -> None:
    for member in members:
        member.transport._run_turn()


def _settle(*members: BenchMember) -> None:
    """Let the two exchange heartbeats for a moment, so that they hold each other alive again."""
    until = boot_clock() + 0.3
    while boot_clock() < until:
        _turn(*members)


def _fill(*members: BenchMember) -> None:
    rng = random.Random(1)
    for number in range(MEMBERS):
        keys = MemberKeys.generate(rng.randbytes)
        record = Record(
            name=f"m{number}", generation=1, incarnation=1, pending=False, keys=keys.public, host="127.0.0.1",
            port=9, service="s", url="http://127.0.0.1:9", weight=1000, readiness=Readiness.PASSING,
        )  # fmt: skip
        encoded = encode_record(record)
        label = members[0].node.inspect().seal_label
        row = member_state_of_record_untrusted(encoded, keys.sign(record_text(label, encoded)))
        for member in members:
            member.node.table.apply(row)


def _floods(victim: BenchMember, mallory: BenchMember) -> Iterator[tuple[str, Flood]]:
    seal = mallory.node._state.seal
    here, there = victim.node.instance[:8], mallory.node.instance[:8]
    key_id = seal.key_id
    noise = os.urandom(100)
    yield "100 random bytes", lambda: noise
    foreign = HEADER.pack(0x10, key_id, os.urandom(8), there, here, 1) + noise
    yield "another pool's datagram", lambda: foreign
    other = HEADER.pack(0x10, key_id, seal.label, there, os.urandom(8), 1) + noise
    yield "for another instance", lambda: other
    forged = HEADER.pack(0x10, key_id, seal.label, there, here, 2**39) + noise
    yield "a member's header, wrong seal", lambda: forged
    unknown = (HEADER.pack(0x10, key_id, seal.label, os.urandom(8), here, 1) + noise for _ in iter(int, 1))
    yield "an unknown member's header", lambda: next(unknown)
    new = (HEADER.pack(STRANGER, key_id, seal.label, os.urandom(8), here, 1) + noise for _ in iter(int, 1))
    yield "a newcomer's header, wrong seal", lambda: next(new)
    for what, messages in _forged_messages(mallory):
        yield f"sealed by a member: {what}", _sealed_flood(mallory, messages)


def _sealed_flood(mallory: BenchMember, messages: list[bytes]) -> Flood:
    state, row = mallory.node._state, mallory.row_of("victim")
    return lambda: state._sealed(row, messages)


def _forged_messages(mallory: BenchMember) -> Iterator[tuple[str, list[bytes]]]:
    yield "an empty payload", []
    yield "a sync digest", [encode_message(SyncDigest(bytes(1024)))]
    row = mallory.row_of("m1")
    assert row.record is not None
    records = []
    for number in range(5):
        encoded = encode_record(msgspec.structs.replace(row.record, incarnation=1000 + number))
        records.append(UpdateEncoder.alive(member_state_of_record_untrusted(encoded, bytes(64))))
    yield "5 records with bad signatures", records
    yield "one such record", records[:1]
    ids = [mallory.row_of(f"m{number}").member_id for number in range(22)]
    votes = [SignedVote(ids[number], 1, 0, Signature(bytes(64))) for number in (2, 3, 4)]
    yield "5 deaths, 3 bad votes each", [encode_message(Dead(subject, 1, votes)) for subject in ids[10:15]]
    own = SignedVote(mallory.node.inspect().me.member_id, 1, 0, Signature(bytes(64)))
    yield "12 bad votes of its own", [encode_message(VoteMessage(subject, 1, own)) for subject in ids[10:]]


def _measure(what: str, victim: BenchMember, mallory: BenchMember, flood: Flood) -> None:
    made, sent, taken, core = [], 0.0, 0.0, 0.0
    clock, count = time.thread_time, BATCH * BATCHES
    making = 0.0
    for _ in range(BATCHES):
        began = clock()
        batch = [flood() for _ in range(BATCH)]
        making += clock() - began
        made.append(batch)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for batch in made[: BATCHES // 2]:
            began = clock()
            for data in batch:
                sock.sendto(data, victim.address)
            sent += clock() - began
            began = clock()
            victim.transport._run_turn()
            taken += clock() - began
    node, source = victim.node, mallory.address
    for batch in made[BATCHES // 2 :]:
        now = boot_clock()
        began = clock()
        for data in batch:
            node.receive_datagram(data, source, now)
        node.handle_timer(boot_clock())
        node.datagrams_to_send()
        core += clock() - began
    make, half = making / count * 1e6, count / 2 / 1e6
    sender, suffered, inside = make + sent / half, taken / half, core / half
    bare = f"{make:8.1f} {inside:8.1f}  {inside / make:6.1f}" if make > 0.5 else f"{'':8} {inside:8.1f}"
    print(f"{what:44} {sender:8.1f} {suffered:8.1f}  {suffered / sender:5.1f} {bare}", flush=True)
