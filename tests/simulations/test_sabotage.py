"""Every law can fail: for each, a break of the protocol by one line, and a story in which the judge notices.

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

from rumormill.discovery import view
from rumormill.discovery.view import RoutingView, ServiceView
from rumormill.gossip import Node, ProtocolSettings, policies, signatures, sync
from rumormill.gossip.claims import Claims
from rumormill.gossip.housekeeping import Housekeeping
from rumormill.gossip.isolation import Isolation
from rumormill.gossip.policies import Policies
from rumormill.gossip.reception import Reception
from rumormill.gossip.refusals import Refusals
from rumormill.gossip.seal import Seal
from rumormill.gossip.state import State
from rumormill.gossip.votes import Ballot, VoteBook
from rumormill.membership import Address, Liveness, MemberTable, merge, policy, table
from rumormill.membership.policy import Policy, PolicyRecord
from rumormill.membership.row import Row
from rumormill.simulations import RumormillFactory, Trouble, World
from rumormill.simulations.judge import Judge
from rumormill.simulations.laws import Violation
from rumormill.simulations.operations import Canary

Break = Callable[[pytest.MonkeyPatch], None]
Tale = Callable[[World], None]


def patch(owner: Any, name: str, replacement: Any) -> Break:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, replacement)


# -- The stories


def settle(world: World, count: int = 8) -> None:
    world.start(count)
    world.run(3.0)


def two_writers(world: World) -> None:
    """Two operators at once, at two members, and one after both."""
    settle(world)
    Canary("n1", "v2", 500).apply(world)
    Canary("n2", "v3", 500).apply(world)
    world.run(3.0)
    Canary("n3", "v2", 1000).apply(world)
    world.run(3.0)


def latecomer(world: World) -> None:
    settle(world, 24)
    world.start(1)
    world.run(3.0)


def crash(world: World) -> None:
    settle(world)
    world.crash("n3")
    world.run(2.0)


def split(world: World) -> None:
    settle(world)
    world.cut({"n0", "n1", "n2", "n3"})
    world.run(10.0)
    world.heal()
    world.run(5.0)


def even_split_without_seed(world: World) -> None:
    settle(world, 9)
    world.crash("n0")
    world.run(5.0)
    world.cut({"n1", "n2", "n3", "n4"})
    world.run(10.0)
    world.heal()


def three_ways(world: World) -> None:
    settle(world, 12)
    world.cut({"n0", "n1", "n2", "n3"})
    world.cut({"n4", "n5", "n6", "n7"})
    world.run(10.0)
    world.heal()


def freeze(world: World) -> None:
    settle(world)
    world.freeze("n3")
    world.run(2.0)
    world.thaw("n3")
    world.run(2.0)


def long_absence(world: World) -> None:
    """One is cut off until everyone gave it up, and comes back."""
    settle(world)
    world.cut({"n3"})
    world.run(5.0)
    world.heal()
    world.run(5.0)


def asleep_at_a_death(world: World) -> None:
    """One sleeps while another dies, and still tells of the dead when it wakes."""
    settle(world)
    world.freeze("n5")
    world.crash("n3")
    world.run(3.0)
    world.thaw("n5")
    world.run(3.0)


def cut_off_at_a_death(world: World) -> None:
    settle(world)
    world.cut({"n5"})
    world.crash("n3")
    world.run(3.0)
    world.heal()
    world.run(1.0)


def asleep_at_a_return(world: World) -> None:
    """One sleeps while another is evicted and comes back, and then reads all of its mail at once."""
    settle(world)
    world.freeze("n3", "n5")
    world.run(1.0)
    world.thaw("n3")
    world.run(3.0)
    world.thaw("n5")


def small_side(world: World) -> None:
    settle(world)
    world.cut({"n0", "n1"})
    world.run(5.0)
    world.heal()


def heavy_loss(world: World) -> None:
    settle(world)
    world.degrade(Trouble(loss=0.4))
    world.run(120.0)
    world.heal()


def stutter(world: World) -> None:
    """One stops for about as long as three misses take, again and again, on slow links, and is told nothing."""
    settle(world, 4)
    world.degrade(Trouble(delay=0.05, jitter=0.02))
    world.cut_one_way(None, {"n3"})
    world.run(5.0)
    for turn in range(60):
        world.freeze("n3")
        world.run(0.60 + 0.002 * turn)
        world.thaw("n3")
        world.run(1.0)
    world.heal()


def forgery(world: World) -> None:
    """Somebody answers whatever is sent with refusals that he makes up."""
    settle(world)
    world.refuse()
    world.degrade(Trouble(forged=True))
    world.run(30.0)
    world.heal()


def departure(world: World) -> None:
    settle(world)
    world.run(4.0)
    world.leave("n3")
    world.run(2.0)


def rolling_restart(world: World) -> None:
    settle(world, 5)
    for number in range(1, 5):
        world.restart(f"n{number}")
        world.run(1.5)


def stranger(world: World) -> None:
    """Somebody of another pool, who was given our addresses by mistake."""
    settle(world, 3)
    world.start_one("x", factory=RumormillFactory(cluster="other", keyring=None))
    world.run(3.0)
    world.crash("x")


# -- The breaks


def ignore_incarnation(held: Row | None, heard: Row) -> Row:
    if held is not None and held.instance == heard.instance and heard.liveness >= held.liveness:
        return heard
    return merge(held, heard)


def last_word(held: Row | None, heard: Row) -> Row:
    if held is not None and held.present and held.life == heard.life and held.incarnation == heard.incarnation:
        return heard
    return merge(held, heard)


def prefer_life(held: Row | None, heard: Row) -> Row:
    if held is not None and heard == held.held(Liveness.ALIVE):
        return heard
    return merge(held, heard)


def suspect_louder(self: Claims, claim: Any, sender: Row) -> None:
    """Whoever passes a suspicion on raises the incarnation, to be heard."""
    if row := self._state.table.get(claim.subject):
        self.apply(msgspec.structs.replace(row, liveness=Liveness.SUSPECT, incarnation=row.incarnation + 1))


def one_vote(self: Claims, row: Row, ballots: list[Ballot]) -> bool:
    return len(ballots) >= 1


def believe_death(self: Claims, row: Row, sender: Row) -> None:
    self.apply(row.held(Liveness.DEAD))


def count_liveness(self: MemberTable, row: Row) -> None:
    self.digest ^= row.checksum ^ row.liveness
    self._buckets[row.half[0]] ^= row.checksum & 0xFFFFFFFF


def miscount(self: MemberTable, row: Row) -> None:
    self.digest ^= row.checksum
    if row.liveness is Liveness.ALIVE:
        self._buckets[row.half[0]] ^= row.checksum & 0xFFFFFFFF


def fall_silent(self: State, address: Address, datagram: bytes) -> None:
    """n3 says nothing any more after a while, and does not notice."""
    if self.me.name != "n3" or self.counters["fell_silent"] < 60:
        self.outbox.append((address, datagram))
    self.counters["fell_silent"] += 1


def leave_silently(self: Node, now: float) -> None:
    self._claims.leaving = True
    self._leave_done = now


def last_word_of_policy(held: Policy | None, heard: Policy) -> Policy:
    return heard


def believe_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "merge", last_word_of_policy)
    monkeypatch.setattr(policies, "precedence", lambda _: math.nan)  # no policy is ever at least as great as another


def first_word_of_policy(held: Policy | None, heard: Policy) -> Policy:
    return heard if held is None or heard.record.counter > held.record.counter else held


def stand_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two policies with one counter the first heard stays, and the digest knows no more than counters."""
    monkeypatch.setattr(policy, "merge", first_word_of_policy)
    read = policies.policy_untrusted

    def shallow(encoded: bytes, signature: bytes) -> Policy:
        whole = read(encoded, signature)
        return msgspec.structs.replace(whole, checksum=whole.record.counter)

    monkeypatch.setattr(policies, "policy_untrusted", shallow)


def sign_as_another(self: Policies, service: str, body: policy.Body, at: int) -> PolicyRecord:
    record = PolicyRecord(service, self._state.table.policies.counter + 1, "n0", at, body)
    self._take(policy.policy_untrusted(policy.encode_policy(record), b""), quietly=False)
    return record


def nothing_heard(self: Policies, *_: object, **__: object) -> None:
    return None


def condemn_oneself(self: Claims, incarnation: int, sender: Row, *, wide: bool) -> None:
    self._state.table.apply(self._state.me.held(Liveness.SUSPECT))


def any_label(self: Seal, data: bytes) -> tuple[bytes, bytes]:
    return data[10:18], data[18:26]


def read_any_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at twice, and signatures are bound to it as well."""
    monkeypatch.setattr(Reception, "ignores", lambda *_: False)
    monkeypatch.setattr(Seal, "parties", any_label)
    monkeypatch.setattr(signatures, "sound", lambda *_: True)


heard_within = State.heard_within


def never_recently(self: State, half: bytes, seconds: float) -> bool:
    settings = self.settings
    return seconds != settings.period + settings.grace and heard_within(self, half, seconds)


_indices = itertools.count(1000, -1)


def falling_index(self: RoutingView, name: str, index: int, workers: Any) -> ServiceView:
    assert self.pool is not None
    pool = self.pool
    return ServiceView(
        cluster=pool.cluster,
        service=name,
        index=next(_indices),
        process=self.process,
        isolated=pool.isolated,
        workers=workers,
    )


usual = RumormillFactory()


@dataclass(frozen=True)
class Sabotage:
    law: str
    what: str
    breaks: Break
    tale: Tale
    factory: RumormillFactory = usual


nothing: Break = lambda monkeypatch: None  # noqa: E731
hasty = RumormillFactory(settings=ProtocolSettings(misses=2))
open_pool = RumormillFactory(keyring=None)

SABOTAGES = [
    Sabotage("row-order", "skip the incarnation check", patch(table, "merge", ignore_incarnation), three_ways),
    Sabotage("verdict-order", "let the last word count", patch(table, "merge", last_word), heavy_loss),
    Sabotage("no-resurrection", "resurrect the dead", patch(table, "merge", prefer_life), asleep_at_a_return),
    Sabotage("own-incarnation", "raise another's incarnation", patch(Claims, "hear_suspect", suspect_louder), freeze),
    Sabotage("born", "read any label", read_any_label, stranger, open_pool),
    Sabotage("own-row", "believe what is said of oneself", patch(Claims, "_accused", condemn_oneself), freeze),
    Sabotage("digest-stands", "let suspicion move the digest", patch(MemberTable, "_count", count_liveness), crash),
    Sabotage("bookkeeping", "leave suspects out of sums", patch(MemberTable, "_count", miscount), long_absence),
    Sabotage("evidence", "evict on two misses", nothing, crash, hasty),
    Sabotage("evidence", "drop the second vote", patch(Claims, "_enough", one_vote), heavy_loss),
    Sabotage("evidence", "merge deaths literally", patch(Claims, "_doubt", believe_death), cut_off_at_a_death),
    Sabotage("evidence", "let votes never expire", patch(VoteBook, "_counts", lambda *_: True), cut_off_at_a_death),
    Sabotage(
        "recently-heard", "believe the death of whom one hears", patch(State, "heard_within", never_recently), stutter
    ),
    Sabotage("recently-heard", "count any refusal", patch(Refusals, "_quotes", lambda *_: True), forgery),
    Sabotage("false-eviction", "fall silent without noticing", patch(State, "post_raw", fall_silent), crash),
    Sabotage("departure", "leave without a word", patch(Node, "leave", leave_silently), departure),
    Sabotage("policy-order", "let the last word hold", believe_the_last_word, two_writers),
    Sabotage("policy-writer", "write in another's name", patch(Policies, "write", sign_as_another), two_writers),
    Sabotage("policies", "let the first word hold", stand_by_the_first, two_writers),
    Sabotage("one-view", "keep policies to oneself", patch(Policies, "hear_untrusted", nothing_heard), two_writers),
    Sabotage("bounds", "pack without looking", patch(sync, "batches", lambda rows, _: [rows]), latecomer),
    Sabotage("index", "count downwards", patch(RoutingView, "_view", falling_index), crash),
    Sabotage("owners", "one digest for all", patch(view, "routing_digest", lambda *_: "0" * 16), split),
    Sabotage(
        "one-view", "stop retrying the dead", patch(Housekeeping, "_retry_dead", nothing), even_split_without_seed
    ),
    Sabotage("one-view", "never refute", patch(Claims, "_accused", lambda *_, **__: None), long_absence),
    Sabotage("great-losses", "believe any number of deaths", patch(Isolation, "defers", lambda *_: False), small_side),
]


def judged(tale: Tale, factory: RumormillFactory) -> None:
    world = World(seed=1, factory=factory)
    judge = Judge(world)
    tale(world)
    judge.calm()


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: f"{s.law}: {s.what}")
def test_the_judge_notices(sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage.breaks(monkeypatch)
    with pytest.raises(Violation) as caught:
        judged(sabotage.tale, sabotage.factory)
    assert caught.value.law == sabotage.law


@pytest.mark.parametrize("tale", {s.tale for s in SABOTAGES}, ids=lambda tale: tale.__name__)
def test_the_whole_protocol_passes(tale: Tale) -> None:
    judged(tale, open_pool if tale is stranger else usual)
