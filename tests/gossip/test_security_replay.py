"""Somebody has recorded everything, holds no key, and plays it again."""

from __future__ import annotations

import os
import random

import pytest
from attackers import Recorder
from pools import node, pool
from seeds import MORE_SEEDS

from rumormill.gossip.security.credentials import MemberKeys
from rumormill.gossip.security.replay_window import REPLAY_WINDOW, ReplayWindow
from rumormill.gossip.security.seal import (
    LAST_COUNTER,
    RENEW_COUNTER,
    CounterExhausted,
    DecryptError,
    Seal,
)
from rumormill.gossip.udp.transport import ForkedProcess, GossipTransport, bind_udp
from rumormill.membership import Liveness
from rumormill.simulations import LinkFault, World
from rumormill.simulations.factories import KEYS

Known = dict[str, list[tuple[str, bytes, int, int, Liveness, bool]]]


def known(world: World) -> Known:
    """What everyone holds of everyone."""
    return {
        key: sorted(
            (row.name, row.instance, row.generation, row.incarnation, row.liveness, row.pending)
            for row in node(world, key).table
        )
        for key in world.running()
    }


def eventful(seconds: float, loss: float = 0.0) -> tuple[World, Recorder]:
    """A pool with a dead member, one that left, and one that was started again, recorded from its first datagram."""
    world = World(seed=3)
    recorder = Recorder(world)
    world.start(6)
    if loss:
        world.degrade(LinkFault(loss=loss))
    world.run(seconds / 3)
    world.crash("n4")
    world.run(seconds / 3)
    world.leave("n5")
    world.restart("n2")
    world.run(seconds / 3)
    world.heal()
    world.run(2.0)
    recorder.stop()
    return world, recorder


def everyone_hears_it_again(world: World, recorder: Recorder, sample: int = 10**9) -> None:
    before = known(world)
    events = len(world.history)
    for key in list(world.running()):
        recorder.replay(key, len(recorder.datagrams) + round(1000 * world.now), sample)
    world.run(2.0)
    assert known(world) == before
    assert [str(event) for event in world.history][events:] == []


@pytest.mark.parametrize("loss", [0.0, pytest.param(0.1, marks=MORE_SEEDS)])
def test_ten_minutes_played_again_change_nothing(loss: float) -> None:
    """Also where one datagram in ten had never arrived."""
    world, recorder = eventful(600.0, loss)
    everyone_hears_it_again(world, recorder, 8000)


@pytest.mark.parametrize(
    "seconds", [pytest.param(60.0, marks=MORE_SEEDS), pytest.param(3600.0, marks=pytest.mark.slow)]
)
def test_a_recording_played_again_and_again_changes_nothing(seconds: float) -> None:
    """All of it, to every member, each time in another order: one member has died, one left, one was started again.
    Then with all clocks a day back, with all a day on, and after every member was started again."""
    world, recorder = eventful(seconds)
    everyone_hears_it_again(world, recorder)
    for days in (-1, 2):
        world.jump_clock(days * 86400.0, *world.running())
        world.run(12.0)  # by then the dead are forgotten whose time is over on that clock
        everyone_hears_it_again(world, recorder)
    for key in world.running():
        world.restart(key)
        assert world.run_until(world.one_view, within=3.0) is not None
        world.run(2.0)
    everyone_hears_it_again(world, recorder)


@MORE_SEEDS
def test_nor_to_a_member_that_has_forgotten_its_dead() -> None:
    """The tombstones have served their time; what was recorded of the dead and of those who left is still void."""
    world, recorder = eventful(60.0)
    world.run(3700.0)
    assert not node(world, "n0").table.tombstones
    everyone_hears_it_again(world, recorder)


@pytest.mark.parametrize("broken", [False, True])
def test_the_last_minute_keeps_no_dead_member_alive(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken:
        monkeypatch.setattr(ReplayWindow, "accepts", lambda *_: True)
        monkeypatch.setattr(ReplayWindow, "mark_seen", lambda *_: None)
    world = pool(4)
    recorder = Recorder(world)
    world.run(60.0)
    recorder.stop()
    world.crash("n3")
    last_words = [(data, source) for data, source in recorder.datagrams if source == world.hosts["n3"].address]
    rng = random.Random(1)
    for _ in range(60):
        for data, source in rng.sample(last_words, 100):
            for key in ("n0", "n1", "n2"):
                world.inject(data, key, source)
        world.run(0.05)
    dead = all(world.liveness_of(key, "n3") is Liveness.DEAD for key in ("n0", "n1", "n2"))
    assert dead is not broken


# -- Windows and counters


def pair() -> tuple[Seal, Seal, MemberKeys, MemberKeys]:
    rng = random.Random(7)
    alice, bob = MemberKeys.generate(rng.randbytes), MemberKeys.generate(rng.randbytes)
    a, b = Seal(KEYS, "lab", alice), Seal(KEYS, "lab", bob)
    a.add_peer(bob.public)
    b.add_peer(alice.public)
    return a, b, alice, bob


@pytest.mark.parametrize("seed", range(20))
def test_each_counter_is_taken_once_in_any_order_within_the_window(seed: int) -> None:
    rng = random.Random(seed)
    window, model = ReplayWindow(), set[int]()
    for _ in range(3000):
        counter = max(1, window.highest + rng.choice((1, 1, 1, 2, 17, -3, -rng.randrange(2000), rng.randrange(3000))))
        expected = counter > window.highest - REPLAY_WINDOW and counter not in model
        assert window.accepts(counter) is expected
        if expected:
            window.mark_seen(counter)
            model.add(counter)


def test_a_member_that_was_forgotten_comes_back_no_earlier_than_it_went() -> None:
    a, b, alice, bob = pair()
    old = [a.seal(bob.member_id, b"x") for _ in range(5)]
    assert b.open(old[4], alice.member_id) == b"x"
    b.forget(alice.member_id)
    b.add_peer(alice.public)
    with pytest.raises(DecryptError, match="replay"):
        b.open(old[2], alice.member_id)
    assert b.open(a.seal(bob.member_id, b"new"), alice.member_id) == b"new"


def test_no_nonce_meets_a_key_twice_over_a_restart_and_a_clock_set_back() -> None:
    world = pool(3)
    recorder = Recorder(world)
    world.run(5.0)
    world.jump_clock(-3600.0, "n1")
    world.run(5.0)
    world.restart("n1")
    world.run(5.0)
    headers = [data[:34] for data, _ in recorder.datagrams]
    own = {*headers}
    assert len({header[10:18] + header[26:34] for header in own}) == len(own), "sender and counter name a datagram"


def test_a_member_takes_new_keys_before_its_own_have_sealed_too_much() -> None:
    world = pool(3)
    worn = node(world, "n1").instance
    node(world, "n1")._state.seal.counter = RENEW_COUNTER
    world.run(12.0)
    assert node(world, "n1").instance != worn
    assert node(world, "n1")._state.seal.counter < RENEW_COUNTER
    assert world.run_until(world.one_view, within=5.0) is not None, world.history.tail()
    assert world.history.of("evicted") == []


def test_nothing_is_sealed_or_opened_beyond_the_last_counter() -> None:
    a, b, alice, bob = pair()
    a.counter = LAST_COUNTER - 2
    assert b.open(a.seal(bob.member_id, b"the last"), alice.member_id) == b"the last"
    with pytest.raises(CounterExhausted):
        a.seal(bob.member_id, b"one too many")


def test_a_forked_process_sends_nothing() -> None:
    world = pool(2)
    sock = bind_udp(("127.0.0.1", 0))
    transport = GossipTransport(node(world, "n0"), sock, on_change=lambda: None, on_events=lambda _: None)
    child = os.fork()
    if child == 0:
        try:
            transport._send()
        except ForkedProcess:
            os._exit(42)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    transport._send()
    sock.close()


@pytest.mark.parametrize("all_of_them", [False, pytest.param(True, marks=MORE_SEEDS)])
def test_our_own_joins_sent_back_hide_no_seed(all_of_them: bool) -> None:
    """As if from the seed that they were sent to, and from everywhere: a join of ours says nothing of where it is."""
    world = World(seed=3)
    world.start(1)
    recorder = Recorder(world)
    seed = world.hosts["n0"].address
    world.cut(["n0"])
    world.start_one("late")
    for number in range(200):
        world.run(0.02)
        joins = [data for data, source in recorder.datagrams if source == world.hosts["late"].address]
        for data in joins if all_of_them else joins[-1:]:
            world.inject(data, "late", seed)
            world.inject(data, "late", ("198.51.100.1", 1000 + number))
        world.command("late", lambda late, now: late.set_seeds([seed]))
    joining = node(world, "late")._parts.join
    assert len(joining._seeds) == 1
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None


def test_a_seed_that_is_ourselves_is_nobody_to_wait_for() -> None:
    world = World(seed=3)
    world.start(1)
    joining = node(world, "n0")._parts.join
    elsewhere = ("198.51.100.7", 7946)
    recorder = Recorder(world)
    world.command("n0", lambda n0, now: n0.set_seeds([elsewhere]))
    assert joining.has_seeds
    world.run(1.0)
    world.inject(recorder.datagrams[-1][0], "n0", elsewhere)
    world.run(0.01)
    assert not joining.has_seeds
