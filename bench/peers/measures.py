"""The measures: what is done to the pools of a testbed, and what is recorded of it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

from bench.netns_testbed import NetnsHost
from bench.peers.pool import PeerEvent, PeerMember, PeerPool, PeerPoolError
from bench.peers.testbed import OURS, PeerTestbed, pin
from rumormill.gossip import ProtocolSettings

PERIOD = 0.2
MONITORS = ProtocolSettings().monitors
"""A member that sends to this many others at once sends heartbeats. No peer system does that."""
PAUSE = 1.5
"""Seconds without faults before a fault; a random part of a period is added. Otherwise a member that has just joined
still exchanges other datagrams, which delay its misses."""
TIMEOUT = 30.0
HEALING_SECONDS = 15.0
REST_SECONDS = 10.0
"""Seconds until a host's kernel refuses at full rate again. Linux sends six refusals, then one per second
(icmp_ratelimit). Without the rest, the next crash on that host would be half silent."""
FALSE_EVICTIONS = "healthy members evicted"
TURNS_OF_PEERS = {"silent host": 3, "live kernel": 8}
"""Peers take part in one turn of this many: they take two to ten times as long, and ignore refusals."""


# --- Crashes and departures, in turn


def crashes(testbed: PeerTestbed, times: int) -> None:
    """SIGKILL, at each system in turn: on a silent host, then on a host whose kernel refuses.

    Each turn hits a different part of the victim's period, because three missed heartbeats take longer or shorter
    depending on it. With few random times, the median would depend on chance.
    """
    every = {
        (pool, mode): 1 if pool.name == OURS else n for pool in testbed.pools for mode, n in TURNS_OF_PEERS.items()
    }
    offsets = {who: spread_out(testbed, -(-times // n)) for who, n in every.items()}
    for turn in range(times):
        for mode in TURNS_OF_PEERS:
            for pool in testbed.pools:
                if turn % every[pool, mode] == 0 and _has_one_view(testbed, pool):
                    _crash(testbed, pool, mode, offsets[pool, mode][turn // every[pool, mode]])
        testbed.log(f"{turn + 1} of {times}: " + _latest(testbed, "silent host, all", "live kernel, all"))


def spread_out(testbed: PeerTestbed, times: int) -> list[float]:
    """``times`` offsets within a period, in seconds: one in each equal part, shuffled.

    Over all rounds, there is one in each equal part of these parts.
    """
    number, rounds = testbed.nth
    offsets = [(part + (number + testbed.rng.random()) / rounds) / times * PERIOD for part in range(times)]
    testbed.rng.shuffle(offsets)
    return offsets


def _crash(testbed: PeerTestbed, pool: PeerPool, mode: str, offset: float) -> None:
    silent = mode == "silent host"
    victim, others, mark = _choose(testbed, pool, rested=not silent)
    _sleep_until(_last_heartbeat(testbed, pool, victim) + offset)
    if silent:  # not earlier: a member that hears nothing pings all others, so that they have just heard it
        testbed.bed.silence(victim.host, pool.system.port)
    else:
        testbed.refused[victim.host] = time.monotonic()
    testbed.stalls.take()
    begun = pool.kill(victim)
    _await_end(testbed, pool, victim, others, begun, mark, mode)
    testbed.measurements[pool.name].samples["this machine late meanwhile"].append(testbed.stalls.take())
    successor = pool.start(victim.host)
    if silent:  # only once it listens, or the kernel would refuse datagrams for the dead process
        pool.until(lambda: successor.up, TIMEOUT, "the next process up")
        testbed.bed.unsilence(victim.host)


def _last_heartbeat(testbed: PeerTestbed, pool: PeerPool, victim: PeerMember) -> float:
    """When it has just sent its heartbeats; the current time for systems without heartbeats."""
    with testbed.bed.sniffer(victim.host, pool.system.port) as sniffer:
        return sniffer.heartbeat(min(MONITORS, testbed.size - 1), 2 * PERIOD) or time.monotonic()


def _sleep_until(offset: float) -> None:
    time.sleep(max(0.0, offset - time.monotonic()))


def leaves(testbed: PeerTestbed, times: int) -> None:
    """SIGTERM, at each system in turn, until all others know that the member has left."""
    for turn in range(times):
        for pool in filter(partial(_has_one_view, testbed), testbed.pools):
            victim, others, mark = _choose(testbed, pool)
            begun = pool.signal(victim, signal.SIGTERM)
            pool.forget(victim)
            _await_end(testbed, pool, victim, others, begun, mark, "leave")
            pool.start(victim.host)
        testbed.log(f"{turn + 1} of {times}: " + _latest(testbed, "leave, all"))


def _has_one_view(testbed: PeerTestbed, pool: PeerPool) -> bool:
    """Whether the pool has one view again. A peer without one misses its turn, which is recorded."""
    try:
        pool.settle()
    except PeerPoolError as error:
        if pool.name == OURS:
            raise
        testbed.log(f"misses its turn: {error}")
        testbed.measurements[pool.name].add("turns missed without one view")
        return False
    return True


def _choose(testbed: PeerTestbed, pool: PeerPool, rested: bool = False) -> tuple[PeerMember, list[PeerMember], int]:
    """A random member, after a pause. With ``rested``, on a host whose kernel refuses at full rate again."""
    pool.settle()
    time.sleep(PAUSE + testbed.rng.uniform(0, PERIOD))
    since = {member: time.monotonic() - testbed.refused.get(member.host, -REST_SECONDS) for member in pool.members}
    fit = [member for member, seconds in since.items() if seconds >= REST_SECONDS or not rested]
    if not fit:
        fit = [max(since, key=lambda member: since[member])]
        time.sleep(REST_SECONDS - since[fit[0]])
    victim = testbed.rng.choice(fit)
    return victim, [member for member in pool.members if member is not victim], pool.mark()


def _await_end(
    testbed: PeerTestbed,
    pool: PeerPool,
    victim: PeerMember,
    others: Sequence[PeerMember],
    begun: float,
    mark: int,
    mode: str,
) -> None:
    """Wait until no member holds the victim. Count false evictions meanwhile."""
    measured = testbed.measurements[pool.name]
    seen = pool.until(lambda: all(victim.name not in other.view for other in others), TIMEOUT)
    names = {other.name for other in others}
    ends = [s for s in pool.since(mark) if s.kind in ("gone", "left") and s.observer in names]
    times = _firsts(s for s in ends if s.who == victim.name)
    if times:
        measured.samples[f"{mode}, first"].append(min(times.values()) - begun)
    if seen:
        measured.samples[f"{mode}, all"].append(max(times.values()) - begun)
    else:
        measured.add(f"{mode}: not known to all in {TIMEOUT:g} s")
    measured.add(FALSE_EVICTIONS, sum(s.who in names for s in ends))


def _firsts(observed: Iterable[PeerEvent]) -> dict[str, float]:
    """The time of each observer's first event."""
    found: dict[str, float] = {}
    for sighting in observed:
        found.setdefault(sighting.observer, sighting.at)
    return found


def _latest(testbed: PeerTestbed, *what: str) -> str:
    parts = []
    for pool in testbed.pools:
        samples = testbed.measurements[pool.name].samples
        parts.append(f"{pool.name} " + " / ".join(f"{samples[one][-1]:.3f}" if samples[one] else "-" for one in what))
    return ", ".join(parts)


def worker_crashes(testbed: PeerTestbed, times: int) -> None:
    """Kill the worker's process beside a living sidecar (``--worker-pid``), until all others know."""
    (pool,) = testbed.pools
    measured = testbed.measurements[pool.name]
    with ExitStack() as stack:
        for turn in range(times):
            worker = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
            stack.callback(worker.kill)
            victim, others, mark = _choose(testbed, pool)
            pool.kill(victim)
            victim = pool.start(victim.host, "--worker-pid", str(worker.pid))
            pool.settle()
            pool.until(_worker_seen(pool, mark, victim), TIMEOUT, "the newcomer's worker passing")
            time.sleep(PAUSE + testbed.rng.uniform(0, PERIOD))
            mark = pool.mark()
            begun = time.monotonic()
            worker.kill()
            pool.until(_updated(pool, mark, victim, others), TIMEOUT, "the worker's end")
            known = _firsts(s for s in pool.since(mark) if s.kind == "updated" and s.who == victim.name)
            measured.samples["worker crash, first"].append(min(known.values()) - begun)
            measured.samples["worker crash, all"].append(max(known.values()) - begun)
            testbed.log(f"{turn + 1} of {times}: {measured.samples['worker crash, all'][-1]:.4f}")


def _worker_seen(pool: PeerPool, mark: int, victim: PeerMember) -> Callable[[], bool]:
    """Whether the sidecar has reported its worker's readiness."""
    return lambda: any(s.kind == "worker" and s.observer == victim.name for s in pool.observed[mark:])


def _updated(pool: PeerPool, mark: int, victim: PeerMember, others: Sequence[PeerMember]) -> Callable[[], bool]:
    def test() -> bool:
        updates = (s for s in pool.observed[mark:] if s.kind == "updated" and s.who == victim.name)
        return len({s.observer for s in updates}) >= len(others)

    return test


# --- Faults over time, for all systems at once


def lossy(testbed: PeerTestbed, seconds: float, share: float) -> None:
    """Every host loses a share of all incoming packets. No member crashes."""
    _watch(testbed, seconds, lambda: testbed.bed.lose(share))


def one_way(testbed: PeerTestbed, seconds: float) -> None:
    """Cut the packets from one member to one other. All other directions stay open."""
    first, second = testbed.rng.sample(testbed.bed.hosts, 2)
    _watch(testbed, seconds, lambda: testbed.bed.cut(first, second))


def _watch(testbed: PeerTestbed, seconds: float, begin: Callable[[], None]) -> None:
    marks = marks_now(testbed)
    begin()
    sleep_and_log(testbed, seconds)
    _count_false_evictions(testbed, marks)
    testbed.bed.mend()
    _await_one_view(testbed, time.monotonic(), "one view after mending")


def marks_now(testbed: PeerTestbed) -> dict[str, int]:
    """Wait until each pool has one view and is at rest. Returns by system where its events continue from here."""
    for pool in testbed.pools:
        _has_one_view(testbed, pool)
    time.sleep(PAUSE)
    return {pool.name: pool.mark() for pool in testbed.pools}


def sleep_and_log(testbed: PeerTestbed, seconds: float) -> None:
    """Wait, and log every ten seconds how late this machine was."""
    testbed.stalls.take()
    begun = time.monotonic()
    while (left := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(10.0, left))
        late = testbed.stalls.take() * 1000
        testbed.log(f"{time.monotonic() - begun:.0f} of {seconds:.0f} s, this machine late by {late:.0f} ms")


def _count_false_evictions(testbed: PeerTestbed, marks: dict[str, int], but: Iterable[NetnsHost] = ()) -> None:
    """Count evictions of running members, one per observer. Members on the hosts ``but`` count separately."""
    left_out = {host.number for host in but}
    for pool in testbed.pools:
        measured = testbed.measurements[pool.name]
        hosts = {member.name: member.host.number for member in pool.members}
        event = [s for s in pool.since(marks[pool.name]) if s.who in hosts]
        gone = [s for s in event if s.kind == "gone"]
        false_evictions = [s for s in gone if hosts[s.who] not in left_out]
        measured.add(FALSE_EVICTIONS, len(false_evictions))
        measured.add("distinct healthy members evicted", len({s.who for s in false_evictions}))
        if left_out:
            measured.add("impaired members evicted", len(gone) - len(false_evictions))
            measured.add("evictions by impaired members", sum(hosts[s.observer] in left_out for s in false_evictions))
        measured.add("suspicions", sum(s.kind == "suspected" for s in event))


def _await_one_view(testbed: PeerTestbed, begun: float, what: str) -> None:
    """Measure, per system, the time until its last member holds all others, by the members' own timestamps."""
    for pool in testbed.pools:
        measured = testbed.measurements[pool.name]
        if pool.until(pool.one_view, HEALING_SECONDS):
            joins = [s.at for s in pool.observed if s.kind in ("joined", "refuted") and s.at > begun]
            measured.samples[what].append(max(joins, default=begun) - begun)
        else:
            measured.add(f"{what}: none in {HEALING_SECONDS:g} s")


def partition(testbed: PeerTestbed, seconds: float) -> None:
    """Split the hosts into two halves for ``seconds``."""
    marks_now(testbed)
    half = len(testbed.bed) // 2
    testbed.bed.split(testbed.bed.hosts[:half], testbed.bed.hosts[half:])
    sleep_and_log(testbed, seconds)
    begun = time.monotonic()
    testbed.bed.mend()
    _await_one_view(testbed, begun, "healed to one view")


def stops(testbed: PeerTestbed, seconds: float) -> None:
    """Stop one member (SIGSTOP) for 0.3 to 1.5 s again and again, in each system at the same times."""
    host = testbed.rng.choice(testbed.bed.hosts)
    victims = {pool.name: next(m for m in pool.members if m.host is host) for pool in testbed.pools}
    marks = marks_now(testbed)
    episodes: dict[str, list[tuple[float, float]]] = {pool.name: [] for pool in testbed.pools}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        begun = {pool.name: pool.signal(victims[pool.name], signal.SIGSTOP) for pool in testbed.pools}
        time.sleep(testbed.rng.uniform(0.3, 1.5))
        for pool in testbed.pools:
            episodes[pool.name].append((begun[pool.name], pool.signal(victims[pool.name], signal.SIGCONT)))
        time.sleep(testbed.rng.uniform(0.7, 1.5))
    testbed.log(f"{len(episodes[testbed.pools[0].name])} stops")
    _await_one_view(testbed, time.monotonic(), "one view after the last")
    _count_false_evictions(testbed, marks, [host])
    for pool in testbed.pools:
        _record_stops(testbed, pool, victims[pool.name], episodes[pool.name])


def _record_stops(
    testbed: PeerTestbed, pool: PeerPool, victim: PeerMember, episodes: Sequence[tuple[float, float]]
) -> None:
    measured = testbed.measurements[pool.name]
    measured.add("evictions after stops of less than 0.4 s", 0)
    about = [s for s in pool.observed if s.who == victim.name and s.observer != victim.name]
    for number, (begun, ended) in enumerate(episodes):
        following = episodes[number + 1][0] if number + 1 < len(episodes) else float("inf")
        here = [s for s in about if begun <= s.at < following]
        out = _firsts(s for s in here if s.kind == "gone")
        back = _firsts(s for s in here if s.kind == "joined" and s.at > ended)
        if ended - begun < 0.4:
            measured.add("stops of less than 0.4 s")
            measured.add("evictions after stops of less than 0.4 s", len(out))
        elif ended - begun >= 0.8:
            whole = len(out) == len(pool.members) - 1
            measured.add("stops of 0.8 s and more")
            measured.add("of these, evicted everywhere before it resumed", whole and max(out.values()) < ended)
            if whole:
                measured.samples["stopped to evicted everywhere"].append(max(out.values()) - begun)
        if out:
            measured.add("stops that ended in an eviction")
            measured.add("of these, back everywhere before the next", out.keys() <= back.keys())
            if back and out.keys() <= back.keys():
                measured.samples["resumed to back everywhere"].append(max(back[name] for name in out) - ended)


def starved(testbed: PeerTestbed, seconds: float, count: int) -> None:
    """Some members share one processor with stress-ng, at the lowest priority. All others use the other processor."""
    hosts = testbed.rng.sample(testbed.bed.hosts, count)
    for pool in testbed.pools:
        for member in pool.members:
            pin([member.process.pid], 0 if member.host in hosts else 1)
            if member.host in hosts:
                subprocess.run(["renice", "-n", "19", "-p", str(member.process.pid)], check=True, capture_output=True)
    marks = marks_now(testbed)
    argv = ["stress-ng", "--cpu", "16", "--taskset", "0", "--timeout", f"{seconds:.0f}s", "--quiet"]
    with subprocess.Popen(argv) as stress:
        sleep_and_log(testbed, seconds)
        stress.wait()
    _count_false_evictions(testbed, marks, hosts)
    for pool in testbed.pools:
        paused = sum(s.kind == "paused" for s in pool.since(marks[pool.name]))
        testbed.measurements[pool.name].add("own pauses detected", paused)
    _await_one_view(testbed, time.monotonic(), "one view after it")
