"""Every invariant can fail: for each, a break of the protocol by one line, and a story in which the checker notices.

An invariant that no break of the protocol violates would prove nothing. The same story passes with the protocol whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from sample_stories import (
    asleep_at_a_return,
    busy_worker,
    crash,
    cut_off_at_a_death,
    departure,
    even_split_without_seed,
    forgery,
    freeze,
    heavy_loss,
    latecomer,
    long_absence,
    restarts_at_once,
    settle,
    small_side,
    small_side_after_a_death,
    split,
    stranger,
    stutter,
    suspected_on_the_second,
    three_ways,
    two_writers,
)

from rumormill.discovery import service_view
from rumormill.discovery.service_view import ServiceView
from rumormill.discovery.view import RoutingView
from rumormill.gossip import Node, ProtocolSettings
from rumormill.gossip.coordinator import Coordinator
from rumormill.gossip.detection.icmp_evidence import IcmpEvidence
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.votes import Vote, VoteBook
from rumormill.gossip.dispatch import DatagramDispatch
from rumormill.gossip.dissemination import anti_entropy, policy_replication
from rumormill.gossip.dissemination.policy_replication import PolicyReplication
from rumormill.gossip.lifecycle import reaper
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.lifecycle.membership_updates import MembershipUpdates
from rumormill.gossip.lifecycle.reaper import Reaper
from rumormill.gossip.lifecycle.refutation import Refutation
from rumormill.gossip.security import signature_verifier
from rumormill.gossip.security.seal import Seal
from rumormill.gossip.state import NodeState
from rumormill.membership import Address, Liveness, MemberChange, MemberTable, merge, policy, table
from rumormill.membership.load import Load, LoadRegister
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import PolicyRecord, SignedPolicy
from rumormill.membership.record import NO_SIGNATURE, MemberId
from rumormill.simulations import RumormillFactory, World

Break = Callable[[pytest.MonkeyPatch], None]
Scenario = Callable[[World], None]


def patch(owner: Any, name: str, replacement: Any) -> Break:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, replacement)


# -- The breaks


def ignore_incarnation(held: MemberState | None, heard: MemberState) -> MemberState:
    if held is not None and held.instance == heard.instance and heard.liveness >= held.liveness:
        return heard
    return merge(held, heard)


def last_word(held: MemberState | None, heard: MemberState) -> MemberState:
    if (
        held is not None
        and held.present
        and held.succession == heard.succession
        and held.incarnation == heard.incarnation
    ):
        return heard
    return merge(held, heard)


def prefer_alive(held: MemberState | None, heard: MemberState) -> MemberState:
    if held is not None and heard == held.with_liveness(Liveness.ALIVE):
        return heard
    return merge(held, heard)


def suspect_louder(self: MembershipUpdates, claim: Any, sender: MemberState) -> None:
    """Whoever passes a suspicion on raises the incarnation, to be heard."""
    if row := self._state.table.get(claim.subject):
        self._changes.apply(msgspec.structs.replace(row, liveness=Liveness.SUSPECT, incarnation=row.incarnation + 1))


def one_vote(self: Eviction, row: MemberState, votes: list[Vote]) -> bool:
    return len(votes) >= 1


def believe_death(self: Eviction, row: MemberState, sender: MemberState) -> None:
    self._changes.apply(row.with_liveness(Liveness.DEAD))


def believe_what_is_shown(self: MembershipUpdates, row: MemberState) -> None:
    """Another instance of a name is all it takes, without misses of one's own."""
    held = self._state.table.settled.get(row.name)
    if (
        held is not None
        and held.member_id != row.member_id
        and held.present
        and not row.pending
        and not self._name_conflicts.keeps_name(held)
    ):
        self._changes.apply(held.with_liveness(Liveness.DEAD))


def count_liveness(self: MemberTable, row: MemberState) -> None:
    self.digest ^= row.checksum ^ row.liveness
    self._buckets[row.member_id[0]] ^= row.checksum & 0xFFFFFFFF


def miscount(self: MemberTable, row: MemberState) -> None:
    self.digest ^= row.checksum
    if row.liveness is Liveness.ALIVE:
        self._buckets[row.member_id[0]] ^= row.checksum & 0xFFFFFFFF


def leave_one_out(self: MemberTable, row: MemberState) -> None:
    self.digest ^= 0 if row.name == "n3" else row.checksum
    self._buckets[row.member_id[0]] ^= row.checksum & 0xFFFFFFFF


def by_arrival(order: list[bytes], member_id: bytes, *_: int) -> int:
    return order.index(member_id) if member_id in order else len(order)


index = MemberTable._index


def index_without_suspects(self: MemberTable, row: MemberState) -> None:
    index(self, row)
    self.suspects.clear()


def withdraw_anything(self: MemberTable, member_id: bytes) -> MemberChange | None:
    """What it took back was never spread, it thinks, whatever it was."""
    row = self.get(member_id)
    if row is None or row.liveness is Liveness.ALIVE:
        return None
    after = row.with_liveness(Liveness.ALIVE)
    self._replace(self.settled, row, after)
    return MemberChange(row, after)


def withdraw_from_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemberTable, "withdraw_suspicion", withdraw_anything)
    reunited = Coordinator.connectivity_restored

    def too_much(self: Coordinator) -> None:
        self._parts.partition_guard.local_suspicions.update(dict.fromkeys(self._state.table.tombstones))
        reunited(self)

    monkeypatch.setattr(Coordinator, "connectivity_restored", too_much)


def forget_oneself(self: Reaper) -> None:
    self._next_retry = self._state.now + 1.0
    self._state.table.forget(self._state.me.member_id)


post_raw = NodeState.post_raw


def post_often(self: NodeState, address: Address, datagram: bytes, kind: int) -> None:
    """n3 says everything five thousand times."""
    for _ in range(5000 if self.me.name == "n3" else 1):
        post_raw(self, address, datagram, kind)


def fall_silent(self: NodeState, address: Address, datagram: bytes, kind: int) -> None:
    """n3 says nothing any more after a while, and does not notice."""
    if self.me.name != "n3" or self.counters["fell_silent"] < 60:
        self.outbox.append((address, datagram))
    self.counters["fell_silent"] += 1


def leave_silently(self: Node, now: float) -> None:
    self._state.leaving = True
    self._parts.leave_protocol._finish_at = now


leave = Node.leave


def think_better_of_it(self: Node, now: float) -> None:
    """It says goodbye, and refutes what it hears of that."""
    leave(self, now)
    self._state.leaving = False
    self._state.raise_incarnation()
    self._parts.broadcast.announce(self._state.me.member_id, wide=True)
    self._end_step()


def last_word_of_policy(held: SignedPolicy | None, heard: SignedPolicy) -> SignedPolicy:
    return heard


def believe_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "merge", last_word_of_policy)
    monkeypatch.setattr(
        policy_replication, "precedence", lambda _: math.nan
    )  # no policy is ever at least as great as another


def first_word_of_policy(held: SignedPolicy | None, heard: SignedPolicy) -> SignedPolicy:
    return heard if held is None or heard.record.counter > held.record.counter else held


def stand_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two policies with one counter the first heard stays, and the digest knows no more than counters."""
    monkeypatch.setattr(policy, "merge", first_word_of_policy)
    read = policy_replication.policy_untrusted

    def shallow(encoded: bytes, signature: bytes) -> SignedPolicy:
        whole = read(encoded, signature)
        return msgspec.structs.replace(whole, checksum=whole.record.counter)

    monkeypatch.setattr(policy_replication, "policy_untrusted", shallow)


def sign_as_another(self: PolicyReplication, service: str, body: bytes, at: int) -> PolicyRecord:
    record = PolicyRecord(service, self._state.table.policies.counter + 1, "n0", at, body)
    self._store(policy.policy_untrusted(policy.encode_policy(record), NO_SIGNATURE), quietly=False)
    return record


def number_as_the_next(self: LoadRegister, member_id: MemberId, load: Load, now: float) -> None:
    self.figures[member_id] = msgspec.structs.replace(load, number=load.number + 1)


def nothing_heard(self: PolicyReplication, *_: object, **__: object) -> None:
    return None


def condemn_oneself(self: Refutation, incarnation: int, sender: MemberState, *, wide: bool) -> None:
    self._state.table.apply(self._state.me.with_liveness(Liveness.SUSPECT))


def any_label(self: Seal, data: bytes) -> tuple[bytes, bytes]:
    return data[10:18], data[18:26]


def read_any_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at twice, and signatures are bound to it as well."""
    monkeypatch.setattr(DatagramDispatch, "drops_early", lambda *_: False)
    monkeypatch.setattr(Seal, "claimed_ids", any_label)
    monkeypatch.setattr(signature_verifier, "verify_record", lambda *_: True)


heard_within = NodeState.heard_within


def never_recently(self: NodeState, member_id: bytes, seconds: float) -> bool:
    settings = self.settings
    return seconds != settings.period + settings.grace and heard_within(self, member_id, seconds)


_indices = itertools.count(1000, -1)


def falling_index(self: RoutingView, name: str, index: int, workers: Any) -> ServiceView:
    assert self.pool is not None
    pool = self.pool
    return ServiceView(
        cluster=pool.cluster,
        service=name,
        index=next(_indices),
        process=self.process,
        connectivity=pool.connectivity,
        workers=workers,
    )


usual = RumormillFactory()


@dataclass(frozen=True)
class Sabotage:
    invariant: str
    what: str
    breaks: Break
    scenario: Scenario
    factory: RumormillFactory = usual
    seed: int = 1
    """Of a world in which the break shows, and by this invariant first: chance has a part in that."""


nothing: Break = lambda monkeypatch: None  # noqa: E731
small = RumormillFactory(settings=ProtocolSettings(max_members=3))
forgetful = RumormillFactory(settings=ProtocolSettings(tombstone_life=0.5))
hasty = RumormillFactory(settings=ProtocolSettings(misses=2))
open_pool = RumormillFactory(keyring=None)

SABOTAGES = [
    Sabotage("row-order", "skip the incarnation check", patch(table, "merge", ignore_incarnation), three_ways, seed=3),
    Sabotage("liveness-order", "believe the latest message", patch(table, "merge", last_word), heavy_loss),
    Sabotage("no-resurrection", "return after a goodbye", patch(Node, "leave", think_better_of_it), departure),
    Sabotage("no-resurrection", "resurrect the dead", patch(table, "merge", prefer_alive), asleep_at_a_return),
    Sabotage(
        "own-incarnation",
        "raise another's incarnation",
        patch(MembershipUpdates, "handle_suspect", suspect_louder),
        freeze,
    ),
    Sabotage("known-instance", "read datagrams of any label", read_any_label, stranger, open_pool),
    Sabotage("own-row", "believe an accusation of oneself", patch(Refutation, "refute", condemn_oneself), freeze),
    Sabotage("digest-stability", "let suspicion move the digest", patch(MemberTable, "_toggle", count_liveness), crash),
    Sabotage("bookkeeping", "leave suspects out of sums", patch(MemberTable, "_toggle", miscount), long_absence),
    Sabotage("bookkeeping", "leave one out of the digest", patch(MemberTable, "_toggle", leave_one_out), crash),
    Sabotage("bookkeeping", "order members by arrival", patch(table, "bisect_left", by_arrival), crash),
    Sabotage(
        "bookkeeping",
        "lose the list of suspects",
        patch(MemberTable, "_index", index_without_suspects),
        suspected_on_the_second,
    ),
    Sabotage(
        "no-resurrection",
        "forget the dead at once",
        patch(reaper, "SWEEP_INTERVAL", 0.5),
        cut_off_at_a_death,
        forgetful,
    ),
    Sabotage("liveness-order", "withdraw deaths like suspicions", withdraw_from_all, small_side_after_a_death),
    Sabotage("own-row", "forget oneself", patch(Reaper, "_retry_dead", forget_oneself), crash),
    Sabotage("bounds", "admit members beyond the limit", patch(MemberTable, "_admits", lambda *_: True), settle, small),
    Sabotage("bounds", "send all five thousand times", patch(NodeState, "post_raw", post_often), crash),
    Sabotage("evidence", "evict on two misses", nothing, crash, hasty),
    Sabotage("evidence", "drop the second vote", patch(Eviction, "_has_enough_votes", one_vote), heavy_loss),
    Sabotage(
        "evidence",
        "accept deaths without votes",
        patch(Eviction, "note_unconfirmed_death", believe_death),
        cut_off_at_a_death,
    ),
    Sabotage(
        "evidence",
        "count another instance as a vote",
        patch(MembershipUpdates, "_weigh_other_instance", believe_what_is_shown),
        restarts_at_once,
        seed=4,
    ),
    Sabotage("evidence", "let votes never expire", patch(VoteBook, "_is_valid", lambda *_: True), cut_off_at_a_death),
    Sabotage(
        "recently-heard",
        "accept the death of one just heard",
        patch(NodeState, "heard_within", never_recently),
        stutter,
    ),
    Sabotage(
        "recently-heard", "count forged refusals", patch(IcmpEvidence, "_quotes_ping", lambda *_: True), forgery, seed=3
    ),
    Sabotage("false-eviction", "stop sending without noticing", patch(NodeState, "post_raw", fall_silent), crash),
    Sabotage("departure", "leave without a goodbye", patch(Node, "leave", leave_silently), departure),
    Sabotage("policy-order", "keep the latest policy received", believe_the_last_word, two_writers),
    Sabotage(
        "policy-writer", "write in another's name", patch(PolicyReplication, "write", sign_as_another), two_writers
    ),
    Sabotage("load-origin", "renumber a load", patch(LoadRegister, "hear", number_as_the_next), busy_worker),
    Sabotage("policies", "keep the first policy received", stand_by_the_first, two_writers),
    Sabotage(
        "one-view",
        "ignore policies of others",
        patch(PolicyReplication, "handle_untrusted", nothing_heard),
        two_writers,
    ),
    Sabotage("bounds", "pack without looking", patch(anti_entropy, "batches", lambda rows, _: [rows]), latecomer),
    Sabotage("index", "count the index downwards", patch(RoutingView, "_view", falling_index), crash),
    Sabotage(
        "owners", "give all one routing digest", patch(service_view, "routing_digest", lambda *_: "0" * 16), split
    ),
    Sabotage("one-view", "stop retrying the dead", patch(Reaper, "_retry_dead", nothing), even_split_without_seed),
    Sabotage("one-view", "never refute", patch(Refutation, "refute", lambda *_, **__: None), long_absence),
    Sabotage(
        "mass-eviction",
        "believe any number of deaths",
        patch(PartitionGuard, "defer_eviction", lambda *_: False),
        small_side,
    ),
]
