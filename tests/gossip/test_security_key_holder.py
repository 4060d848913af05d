"""An attacker holds the group key and its own signing key. Each attack is tried with its defense, and without it."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from attackers import accounts, aged, forged, record_of, row_of, say, with_mallory
from pools import everyone_holds, held, node

from rumormill.gossip.detection.failure_detector import FailureDetector
from rumormill.gossip.detection.voter_eligibility import VoterEligibility
from rumormill.gossip.detection.votes import MAX_VOTERS, Vote
from rumormill.gossip.lifecycle.membership_updates import MembershipUpdates
from rumormill.gossip.lifecycle.refutation import Refutation
from rumormill.gossip.security import signature_verifier
from rumormill.gossip.security.credentials import Issuer, MemberKeys
from rumormill.gossip.security.seal import HEADER, Seal
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import (
    Dead,
    IndirectAck,
    Leave,
    SignedVote,
    Suspect,
    Tombstone,
    VoteMessage,
    assemble,
    decode_untrusted,
    payload_prefix,
)
from rumormill.membership import Liveness, Readiness
from rumormill.membership.member_state import MemberState
from rumormill.simulations import RumormillFactory, World
from rumormill.simulations.factories import KEYS
from rumormill.simulations.protocol import NodeStart

Break = Callable[[pytest.MonkeyPatch], None]


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove no defense."""


def unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_verifier, "verify_record", lambda *_: True)
    monkeypatch.setattr(signature_verifier, "signed_by", lambda *_: True)


# -- What others say of themselves


@pytest.mark.parametrize(
    "change",
    [
        {"host": "203.0.113.9"},
        {"port": 9},
        {"weight": 1},
        {"readiness": Readiness.CRITICAL},
        {"tags": {"owned": "yes"}},
        {"url": "http://203.0.113.9:1"},
        {"incarnation": 2**30},
    ],
    ids=str,
)
@pytest.mark.parametrize("breaks", [whole, unsigned])
def test_nobody_changes_the_record_of_another(
    change: dict[str, object], breaks: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = with_mallory()
    before = accounts(world, "n1")
    breaks(monkeypatch)
    record = record_of(world, "mallory", "n1")
    lie = msgspec.structs.replace(record, **{"incarnation": record.incarnation + 1, **change})  # type: ignore[arg-type]
    say(world, "mallory", forged(node(world, "mallory"), lie, node(world, "n0")._state.seal.label))
    world.run(1.0)
    assert (accounts(world, "n1") == before) is (breaks is whole)


@pytest.mark.parametrize("breaks", [whole, unsigned])
def test_nobody_makes_another_leave(breaks: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_mallory()
    breaks(monkeypatch)
    victim = row_of(world, "mallory", "n1")
    incarnation, signature = victim.incarnation, bytes(64)
    gone = Tombstone("n1", victim.generation, victim.instance, incarnation, 3, 0, signature)
    say(world, "mallory", Leave(victim.member_id, incarnation, signature), gone, to=("n0", "n2", "n3"))
    seen = world.run_until(lambda: Liveness.LEFT in held(world, "n1"), within=1.0)
    assert (seen is None) is (breaks is whole)


def test_a_tombstone_without_a_signature_is_at_most_an_accusation() -> None:
    world = with_mallory()
    victim = row_of(world, "mallory", "n1")
    for liveness in (2, 3):
        for generation, instance in ((victim.generation, victim.instance), (2**30, b"i" * 16)):
            say(world, "mallory", Tombstone("n1", generation, instance, victim.incarnation, liveness, 0))  # type: ignore[arg-type]
    world.run(1.0)
    assert everyone_holds(world, "n1", Liveness.ALIVE)
    assert world.history.of("evicted") == []
    assert row_of(world, "n0", "n1").instance == victim.instance


def raise_above(self: Refutation, incarnation: int, sender: MemberState, *, wide: bool) -> None:
    """Raise the incarnation above whatever an accuser names."""
    if incarnation >= self._state.me.incarnation:
        self._state.raise_incarnation(incarnation)
        self._broadcast.announce(self._state.me.member_id, wide=wide)


@pytest.mark.parametrize(
    "breaks", [whole, lambda m: m.setattr(Refutation, "refute", raise_above)], ids=["whole", "broken"]
)
def test_nobody_raises_anothers_incarnation(breaks: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_mallory()
    breaks(monkeypatch)
    victim = row_of(world, "mallory", "n1")
    say(world, "mallory", Suspect(victim.member_id, 2**30), Dead(victim.member_id, 2**30, []), to=("n1",))
    world.run(1.0)
    assert (row_of(world, "n1", "n1").incarnation < 10) is (breaks is whole)


# -- Life and death


@pytest.mark.parametrize("breaks", [whole, unsigned])
def test_nobody_evicts_alone(breaks: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacker forges the votes of others, and repeats its own."""
    world = with_mallory()
    breaks(monkeypatch)
    monkeypatch.setattr(NodeState, "heard_lately", lambda *_: False)  # as if the victim had not been heard just now
    victim, mallory = row_of(world, "mallory", "n1"), row_of(world, "mallory", "mallory")
    stamp = 1
    for _ in range(10):
        stamp += 1
        names = ("n0", "n2", "n3")
        fakes = [SignedVote(row_of(world, "mallory", name).member_id, stamp, 0, bytes(64)) for name in names]
        own = SignedVote(mallory.member_id, stamp, 0, node(world, "mallory")._state.sign_vote(victim, stamp))
        say(
            world,
            "mallory",
            VoteMessage(victim.member_id, victim.incarnation, own),
            Dead(victim.member_id, victim.incarnation, fakes),
        )
        world.run(0.1)
    assert (world.history.of("evicted", "n1") == []) is (breaks is whole)


def test_many_newcomers_leave_room_for_honest_votes() -> None:
    """Newcomers vote first against a dead member, as many as votes are kept for one subject. Their votes do not count
    yet, and the votes that count are still kept."""
    world = aged(5)
    crowd = [f"mallory{number}" for number in range(MAX_VOTERS)]
    for name in crowd:
        world.start_one(name)
    world.run(3.0)
    world.crash("n1")
    for stamp in range(1, 31):
        for name in crowd:
            state = node(world, name)._state
            victim = row_of(world, name, "n1")
            own = SignedVote(state.me.member_id, stamp, 0, state.sign_vote(victim, stamp))
            say(world, name, VoteMessage(victim.member_id, victim.incarnation, own), to=("n0", "n2", "n3", "n4"))
        world.run(0.1)
    for key in ("n0", "n2", "n3", "n4"):
        assert row_of(world, key, "n1").liveness is Liveness.DEAD


def in_any_order(self: VoterEligibility, voters: list[bytes], count: int) -> list[bytes]:
    return voters[:count]


@pytest.mark.parametrize(
    "breaks", [whole, lambda m: m.setattr(VoterEligibility, "quorum_first", in_any_order)], ids=["whole", "broken"]
)
def test_newcomers_do_not_crowd_out_the_votes_that_a_death_carries(
    breaks: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A death is passed on with three votes. Three newcomers vote so that theirs are always the latest."""
    world = aged(5)
    breaks(monkeypatch)
    crowd = ["m1", "m2", "m3"]
    for name in crowd:
        world.start_one(name)
    assert world.run_until(world.one_view, within=3.0) is not None
    teller, victim = node(world, "n0"), row_of(world, "n0", "n1")
    now = teller._state.now
    for age, name in enumerate([*crowd, "n2", "n3"]):
        vote = Vote(row_of(world, "n0", name).member_id, victim.incarnation, now - age / 100, 1, bytes(64))
        teller._parts.votes.add(victim.member_id, vote)
    told = decode_untrusted(assemble(payload_prefix(1, 1), [teller._parts.broadcast.encoder.dead(victim)])).messages[0]
    assert isinstance(told, Dead)
    voters = {vote.voter for vote in told.votes}
    established = {row_of(world, "n0", name).member_id for name in ("n2", "n3")}
    assert (established <= voters) is (breaks is whole)
    assert len(voters) == 3


def believe_any_helper(self: FailureDetector, ack: IndirectAck) -> None:
    self.on_sign_of_life(ack.subject, self._state.now)


@pytest.mark.parametrize(
    "breaks",
    [whole, lambda m: m.setattr(FailureDetector, "on_indirect_ack", believe_any_helper)],
    ids=["whole", "broken"],
)
def test_nobody_keeps_a_dead_member_alive(breaks: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacker tells everyone that it has just heard the dead member, and passes its record on."""
    world = with_mallory()
    breaks(monkeypatch)
    victim = row_of(world, "mallory", "n1")
    record = node(world, "mallory")._parts.broadcast.encoder.alive(victim)
    world.crash("n1")
    for _ in range(60):
        say(world, "mallory", IndirectAck(victim.member_id, 0), record)
        world.run(0.05)
    dead = all(node(world, key).table.settled["n1"].liveness is Liveness.DEAD for key in ("n0", "n2", "n3"))
    assert dead is (breaks is whole)


def move_first(self: Seal, data: bytes, sender: bytes) -> bytes:
    """The window moves before the tag is checked."""
    counter = int.from_bytes(data[26:34], "big")
    if self.peers[sender].highest < counter - 1:
        self.peers[sender].mark_seen(counter - 1)
    return opened(self, data, sender)


opened = Seal.open


def poisonable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Seal, "open", move_first)


@pytest.mark.parametrize("breaks", [whole, poisonable])
def test_nobody_silences_another_with_a_poisoned_counter(breaks: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_mallory()
    breaks(monkeypatch)
    seal = node(world, "mallory")._state.seal
    victim, key_id = row_of(world, "mallory", "n1"), node(world, "mallory")._state.seal.key_id
    for key in ("n0", "n2", "n3", "mallory"):
        receiver = row_of(world, "mallory", key).member_id
        for kind in (0x10, 0x12):
            header = HEADER.pack(kind, key_id, seal.label, victim.member_id, receiver, 2**39)
            world.inject(header + bytes(60), key, world.hosts["n1"].address)
    world.run(3.0)
    assert (world.history.of("suspected", "n1") == []) is (breaks is whole)


def test_nobody_seals_as_another() -> None:
    """With the group key and everything public of two members, their datagrams stay closed and cannot be made."""
    rng = random.Random(1)
    alice, bob, mallory = (MemberKeys.generate(rng.randbytes) for _ in range(3))
    a, b, m = Seal(KEYS, "lab", alice), Seal(KEYS, "lab", bob), Seal(KEYS, "lab", mallory)
    for seal, other in ((a, bob), (b, alice), (m, alice), (m, bob)):
        seal.add_peer(other.public)
    datagram = a.seal(bob.member_id, b"for bob alone")
    with pytest.raises(Exception, match="key"):
        m.open(datagram, alice.member_id)
    made = m.seal(bob.member_id, b"from alice, honestly")
    with pytest.raises(Exception, match="key"):
        b.open(made[:10] + alice.member_id + made[18:], alice.member_id)


# -- Names


@pytest.mark.parametrize(
    "breaks",
    [whole, lambda m: m.setattr(MembershipUpdates, "_must_wait_for_name", lambda *_: False)],
    ids=["whole", "broken"],
)
def test_nobody_takes_a_name_while_its_holder_lives(breaks: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_mallory()
    breaks(monkeypatch)
    honest = row_of(world, "n0", "n1").instance
    keys = MemberKeys.generate(random.Random(5).randbytes)
    lie = msgspec.structs.replace(record_of(world, "mallory", "n1"), generation=1000, keys=keys.public, port=9)
    theft = forged(keys, lie, node(world, "n0")._state.seal.label)
    taken = False
    for _ in range(30):
        say(world, "mallory", theft)
        world.run(0.1)
        taken |= any(row_of(world, key, "n1").instance != honest for key in ("n0", "n2", "n3"))
    assert taken is not (breaks is whole)
    if breaks is whole:
        assert "n1" in world.running()
        assert world.liveness_of("n0", "n1") is Liveness.ALIVE


# -- Several members of one attacker


def accuse_together(world: World) -> None:
    """Two newcomers on two hosts vote against n1 for two seconds, and say that it is dead."""
    for _ in range(20):
        for key in ("m1", "m2"):
            state = node(world, key)._state
            victim = state.table.settled["n1"]
            stamp = int(state.now * 1000) % 2**32
            vote = SignedVote(state.me.member_id, stamp, 0, state.sign_vote(victim, stamp))
            say(world, key, VoteMessage(victim.member_id, victim.incarnation, vote))
        world.run(0.1)


@pytest.mark.parametrize(
    "breaks", [whole, lambda m: m.setattr(VoterEligibility, "is_quorum", lambda *_: True)], ids=["whole", "broken"]
)
def test_two_newcomers_of_one_attacker_evict_nobody(breaks: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    world = aged(5)
    breaks(monkeypatch)
    monkeypatch.setattr(NodeState, "heard_lately", lambda *_: False)  # as if the victim had not been heard just now
    world.start_one("m1")
    world.start_one("m2")
    assert world.run_until(world.one_view, within=3.0) is not None
    accuse_together(world)
    assert (world.history.of("evicted", "n1") == []) is (breaks is whole)


def test_votes_count_after_a_minute_and_from_two_hosts() -> None:
    world = aged(4)
    world.start_one("m1")
    assert world.run_until(world.one_view, within=3.0) is not None
    state = node(world, "n0")._state
    old, other, young = (row_of(world, "n0", name).member_id for name in ("n1", "n2", "m1"))
    assert state.voter_eligibility.is_quorum([old, other])
    assert not state.voter_eligibility.is_quorum([old, young])
    assert not state.voter_eligibility.is_quorum([old])
    world.run(61.0)
    assert state.voter_eligibility.is_quorum([old, young])
    here = msgspec.structs.replace(row_of(world, "n0", "m1"), address=row_of(world, "n0", "n1").address)
    state.table.settled["m1"] = state.table._by_id[young] = here
    assert not state.voter_eligibility.is_quorum([old, young])


def test_in_a_young_pool_and_on_one_host_every_vote_counts() -> None:
    world = World(seed=1)
    world.start(4)
    assert world.run_until(world.one_view, within=3.0) is not None
    assert node(world, "n0")._state.voter_eligibility.is_quorum(
        [row_of(world, "n0", name).member_id for name in ("n1", "n2")]
    )


# -- An authority


class Registrar:
    """Gives members an identity, and the public key of the authority."""

    def __init__(self) -> None:
        self.issuer = Issuer(b"authority seed of 32 bytes long.")

    def member(self, start: NodeStart, issuer: Issuer | None = None):  # type: ignore[no-untyped-def]
        credential = (issuer or self.issuer).issue(start.name, start.token_bytes)
        return RumormillFactory(authority=self.issuer.authority, credential=credential)(start)

    def without(self, start: NodeStart):  # type: ignore[no-untyped-def]
        return RumormillFactory()(start)

    def borrowed(self, start: NodeStart):  # type: ignore[no-untyped-def]
        credential = self.issuer.issue("somebody-else", start.token_bytes)
        return RumormillFactory(authority=self.issuer.authority, credential=credential)(start)


def test_with_an_authority_votes_of_newcomers_count() -> None:
    """Nobody can start members at will, so newcomers with an issued name vote like any other member."""
    registrar = Registrar()
    world = World(seed=1, factory=registrar.member)
    world.start(3)
    world.run(61.0)
    for key in ("m1", "m2"):
        world.start_one(key)
    assert world.run_until(world.one_view, within=3.0) is not None
    newcomers = [row_of(world, "n0", key).member_id for key in ("m1", "m2")]
    assert node(world, "n0")._state.voter_eligibility.is_quorum(newcomers)
    assert not node(world, "n0")._state.voter_eligibility.is_quorum(newcomers[:1])


def test_with_an_authority_only_names_it_issued_come_in() -> None:
    registrar = Registrar()
    world = World(seed=1, factory=registrar.member)
    world.start(4)
    assert world.run_until(world.one_view, within=3.0) is not None
    world.start_one("m1", factory=registrar.without)
    world.start_one("m2", factory=registrar.borrowed)
    world.start_one("m3", factory=lambda start: registrar.member(start, Issuer(bytes(32))))
    world.restart("n1")
    world.run(3.0)
    for key in ("n0", "n1", "n2", "n3"):
        assert sorted(node(world, key).table.settled) == ["n0", "n1", "n2", "n3"]
        assert node(world, key).table.pending == {}
