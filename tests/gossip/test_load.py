"""How busy each worker is: known to all at once, from nobody but its own member, and cheap."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated

import msgspec
from attackers import say, with_mallory
from pools import node, pool
from seeds import MORE_SEEDS

from rumormill.gossip.dissemination.load_announcer import MAX_STEP, STEP, required_step
from rumormill.gossip.wire import AnyMessage, Ping, assemble, decode_untrusted, encode_field, encode_message
from rumormill.membership import Liveness
from rumormill.membership.load import CallerCounts, Load, LoadRegister, MemberLoad
from rumormill.membership.record import InstanceId, MemberId
from rumormill.simulations import LinkFault, World
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.network import IP_UDP_BYTES
from rumormill.simulations.operations import Measure


class Bytes:
    """Counts what all members send, with IP and UDP headers."""

    def __init__(self, world: World) -> None:
        self.total = 0
        world.network.on_send = self._sent

    def _sent(self, _host: object, _to: object, data: bytes) -> None:
        self.total += len(data) + IP_UDP_BYTES

    def over(self, world: World, seconds: float) -> int:
        before = self.total
        world.run(seconds)
        return self.total - before


def measure(world: World, key: str, utilization: float | None, queue: int = 0) -> None:
    Measure(key, utilization, queue).apply(world)


def loads_at(world: World, key: str) -> dict[InstanceId, MemberLoad]:
    return node(world, key).load_view.loads(world.hosts[key].local_time())


def known(world: World, subject: str) -> dict[str, MemberLoad | None]:
    """What every running member knows of one member's load."""
    instance = node(world, subject).instance
    return {key: loads_at(world, key).get(instance) for key in world.running()}


def everyone_knows(world: World, subject: str, utilization: float) -> bool:
    loads = known(world, subject).values()
    return all(load is not None and abs(load.utilization - utilization) < STEP / 1000 for load in loads)


def dropped_by(counters: Mapping[str, int]) -> int:
    return sum(count for name, count in counters.items() if name.startswith("dropped_"))


def nobody_knows(world: World, subject: str) -> bool:
    return set(known(world, subject).values()) == {None}


@MORE_SEEDS
def test_a_changed_load_is_known_to_all_of_64_within_a_second_for_a_twentieth_of_the_bytes() -> None:
    world = pool(64)
    world.run(5.0)
    counted = Bytes(world)
    at_rest = counted.over(world, 10.0)
    digests = {key: running.table_digest for key, running in world.running().items()}
    views = {key: running.view for key, running in world.running().items()}
    rng, spent = random.Random(1), 0
    for number in range(8):
        key, utilization = f"n{7 * number}", rng.random()
        measure(world, key, utilization, queue=number)
        before = counted.total
        took = world.run_until(lambda k=key, u=utilization: everyone_knows(world, k, u), within=1.0)  # type: ignore[misc]
        assert took is not None, f"{key} after {took}"
        world.run(1.25 - took)
        spent += counted.total - before
    assert spent <= 1.05 * at_rest
    assert digests == {key: running.table_digest for key, running in world.running().items()}
    assert all(running.view is views[key] for key, running in world.running().items())


def test_loads_that_never_stop_moving_cost_a_twentieth_and_stay_roughly_known() -> None:
    world = pool(12)
    counted = Bytes(world)
    at_rest = counted.over(world, 20.0)
    rng = random.Random(2)
    loads = dict.fromkeys(world.hosts, 0.5)

    def wander(seconds: int) -> int:
        before = counted.total
        for _ in range(seconds):
            for key in loads:
                loads[key] = min(max(loads[key] + rng.choice((-0.04, 0.04)), 0.0), 1.0)
                measure(world, key, loads[key])
            world.run(1.0)
        return counted.total - before

    wander(40)  # spends what was saved
    assert wander(20) <= 1.05 * at_rest
    errors = [abs(load.utilization - loads[key]) for key in loads for load in known(world, key).values() if load]
    assert len(errors) == 12 * 12
    assert sum(errors) / len(errors) < 0.1
    assert max(errors) <= MAX_STEP / 1000


def test_precision_gives_way_as_the_budget_runs_out_and_credit_is_bounded() -> None:
    steps = [required_step(budget / 10) for budget in range(10, -11, -1)]
    assert steps[0] == STEP
    assert steps == sorted(steps)
    assert steps[-2] == MAX_STEP
    assert steps[-1] == float("inf")


def test_a_load_at_rest_costs_no_datagram() -> None:
    world = pool(8)
    for key in world.hosts:
        measure(world, key, 0.4)
    world.run(20.0)
    sent = sum(running.counters["sent"] for key in world.hosts if (running := node(world, key)))
    for _ in range(50):
        for key in world.hosts:
            measure(world, key, 0.4 + random.Random(key).uniform(-0.009, 0.009))
        world.run(0.2)
    with_load = sum(node(world, key).counters["sent"] for key in world.hosts) - sent
    quiet = pool(8)
    quiet.run(20.0)
    before = sum(node(quiet, key).counters["sent"] for key in quiet.hosts)
    quiet.run(10.0)
    assert abs(with_load - (sum(node(quiet, key).counters["sent"] for key in quiet.hosts) - before)) < 0.02 * with_load


def test_a_member_states_its_own_load_and_can_state_nobody_elses() -> None:
    """Mallory is a member, and knows all that members know. Whatever it sends, others take it for its own load."""
    world = with_mallory(4)
    for key in ("n0", "n1", "n2", "n3"):
        measure(world, key, 0.25)
    world.run(2.0)
    before = {key: known(world, key) for key in ("n0", "n1", "n2", "n3")}
    state = node(world, "mallory")._state
    state.own_load.figure = Load(2**39, 0)
    measure(world, "mallory", 1.9, 60_000)
    say(world, "mallory", Ping(bytes(8)))
    world.run(1.0)
    assert everyone_knows(world, "mallory", 1.9)
    for key, loads in before.items():
        assert {k: load and load.utilization for k, load in known(world, key).items()} == {
            k: load and load.utilization for k, load in loads.items()
        }


def test_a_load_under_another_members_id_is_not_opened() -> None:
    """Mallory seals a payload with a load and puts the victim's id into the header, from the victim's address."""
    world = with_mallory(4)
    measure(world, "n1", 0.25)
    world.run(2.0)
    mallory, victim, target = (node(world, key)._state for key in ("mallory", "n1", "n2"))
    payload = assemble(mallory._prefix, [], (encode_field(Load(2**39, 2000, 9)),))
    forged = bytearray(mallory.seal.seal(target.me.member_id, payload))
    forged[10:18] = victim.me.member_id
    dropped = dropped_by(target.counters)
    world.inject(bytes(forged), "n2", world.hosts["n1"].address)
    world.run(0.5)
    assert dropped_by(target.counters) == dropped + 1
    assert everyone_knows(world, "n1", 0.25)


def test_an_absurd_load_is_refused_with_its_datagram() -> None:
    world = with_mallory(4)
    state, target = node(world, "mallory")._state, node(world, "n2")._state
    for absurd in ([1, -5, 0], [1, 2001, 0], [1, 10, 65_536], [2**40, 1, 1], [1.5, 1, 1], "full", [1]):
        before = target.counters["dropped_payload"]
        payload = assemble(state._prefix, [], (msgspec.msgpack.encode(absurd),))
        world.inject(state.seal.seal(target.me.member_id, payload), "n2", world.hosts["mallory"].address)
        world.run(0.05)
        assert target.counters["dropped_payload"] == before + 1, absurd
    assert nobody_knows(world, "mallory")


def test_an_old_figure_that_comes_late_changes_nothing() -> None:
    register, who = LoadRegister(), MemberId(b"somebody")
    register.hear(who, Load(2, 500, 0), now=1.0)
    register.hear(who, Load(1, 900, 0), now=2.0)
    register.hear(who, Load(2, 900, 0), now=3.0)
    assert (register.figures[who], register.heard[who], register.version) == (Load(2, 500, 0), 3.0, 1)


def test_a_load_that_cannot_be_told_any_more_is_unknown_everywhere_and_not_full() -> None:
    world = pool(12)
    measure(world, "n3", 0.9)
    assert world.run_until(lambda: everyone_knows(world, "n3", 0.9), within=1.0) is not None
    measure(world, "n3", None)
    assert world.run_until(lambda: nobody_knows(world, "n3"), within=1.0) is not None


def test_the_load_of_a_silent_member_is_unknown_after_three_seconds_even_where_nobody_is_evicted() -> None:
    """n0 is cut off: it evicts nobody, and goes on showing the others. What it knew of their load grows stale."""
    world = pool(8)
    for key in world.hosts:
        measure(world, key, 0.5)
    world.run(1.0)
    world.cut({"n0"})
    world.run(1.0)
    here = node(world, "n0")
    assert len(loads_at(world, "n0")) == 8
    world.run(3.5)
    assert {m.liveness for m in here.view.members if m.name != "n0"} == {Liveness.SUSPECT}
    assert list(loads_at(world, "n0")) == [here.instance]


def test_a_newcomer_learns_every_load_within_a_second() -> None:
    world = pool(24)
    for key in world.hosts:
        measure(world, key, 0.3)
    world.run(1.0)
    world.start_one("late")
    assert world.run_until(world.one_view, within=3.0) is not None
    assert world.run_until(lambda: len(loads_at(world, "late")) == 24, within=1.0)


def test_a_lost_figure_is_made_good_by_the_slow_probes() -> None:
    world = pool(10)
    InvariantChecker(world)
    world.degrade(LinkFault(loss=0.5))
    measure(world, "n4", 0.7)
    world.run(0.6)
    world.heal()
    assert world.run_until(lambda: everyone_knows(world, "n4", 0.7), within=25.0) is not None


class PayloadOfTheVersionBefore(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a member of the version before decodes: it knows no load."""

    generation: int
    incarnation: int
    messages: Annotated[list[AnyMessage], msgspec.Meta(max_length=128)]


def test_a_member_of_the_version_before_reads_our_datagrams() -> None:
    ping = encode_message(Ping(bytes(8)))
    for messages in ([], [ping]):
        for fields in ((encode_field(Load(7, 400, 2)),), (b"\xc0", encode_field(3))):
            payload = assemble(b"\x93\x01\x01", messages, fields)
            older = msgspec.msgpack.decode(payload, type=PayloadOfTheVersionBefore)
            assert (older.generation, older.incarnation, len(older.messages)) == (1, 1, len(messages))
    ours = decode_untrusted(assemble(b"\x93\x01\x01", [ping], (encode_field(Load(7, 400, 2)),)))
    assert (ours.load, ours.under_way) == (Load(7, 400, 2), None)
    theirs = decode_untrusted(assemble(b"\x93\x01\x01", [ping]))
    assert (theirs.load, theirs.under_way) == (None, None)


def test_what_callers_report_reaches_the_workers_own_member_once_whatever_is_lost_or_doubled() -> None:
    world = pool(3)
    world.degrade(LinkFault(loss=0.3, duplicate=0.3))
    here, there = node(world, "n0"), node(world, "n1")
    for second in range(1, 21):
        told = {there._state.me.member_id: CallerCounts(under_way=3, finished=10 * second, doubts=second // 10)}
        here.tell_callers(told, world.hosts["n0"].local_time())
        world.run(1.0)
    now = world.hosts["n1"].local_time()
    assert there.load_view.under_way_here(now, max_age=3.0) == 3
    assert there.load_view.finished_here == 190, "what was there before the first report is nobody's progress"
    assert there.doubts == 2
    world.run(5.0)
    assert there.load_view.under_way_here(world.hosts["n1"].local_time(), max_age=3.0) is None
