"""What is done to the pools of a stage, and what of it is written down. Each takes the stage and its own parameters."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

from bench.netns_testbed import NetnsHost
from bench.peers.pool import PeerMember, PeerPool, PoolTrouble, Sighting
from bench.peers.stage import OURS, Stage, pin
from rumormill.gossip import ProtocolSettings

PERIOD = 0.2
MONITORS = ProtocolSettings().monitors
"""Who sends to so many others at once says that it lives; no peer does."""
CALM = 1.5
"""Seconds of peace before a fault, and a random part of a period. In less, who has just joined still has to say so, and
to be asked: a member that said something else since its heartbeat is missed later."""
PATIENCE = 30.0
HEALING_SECONDS = 15.0
REST_SECONDS = 10.0
"""Linux answers a peer's datagrams to dead ports with six refusals, then with one a second (icmp_ratelimit): a host
that has just refused gathers them again, or the next death there would be measured as half a silent one."""
WRONGLY = "healthy members evicted"
TURNS_OF_PEERS = {"silent host": 3, "live kernel": 8}
"""One turn in so many is theirs too: they take two to ten times as long, and make nothing of a refusal."""


# --- deaths and departures, in turn


def crashes(stage: Stage, times: int) -> None:
    """SIGKILL, in turn at each system: on a host that stays silent, then on one whose kernel refuses.

    Each turn falls into another part of the victim's period: how long three missed heartbeats take depends on when the
    last one was, and the median of a few moments by lot says more of the lot than of the system.
    """
    every = {(pool, mode): 1 if pool.name == OURS else n for pool in stage.pools for mode, n in TURNS_OF_PEERS.items()}
    moments = {who: spread_out(stage, -(-times // n)) for who, n in every.items()}
    for turn in range(times):
        for mode in TURNS_OF_PEERS:
            for pool in stage.pools:
                if turn % every[pool, mode] == 0 and _found_together(stage, pool):
                    _crash(stage, pool, mode, moments[pool, mode][turn // every[pool, mode]])
        stage.say(f"{turn + 1} of {times}: " + _latest(stage, "silent host, all", "live kernel, all"))


def spread_out(stage: Stage, times: int) -> list[float]:
    """So many moments in a period, one in each equal part of it, in no order; over all rounds, one in each part of
    these. Seconds."""
    number, rounds = stage.nth
    moments = [(part + (number + stage.rng.random()) / rounds) / times * PERIOD for part in range(times)]
    stage.rng.shuffle(moments)
    return moments


def _crash(stage: Stage, pool: PeerPool, mode: str, moment: float) -> None:
    silent = mode == "silent host"
    victim, others, mark = _choose(stage, pool, rested=not silent)
    _sleep_until(_last_heartbeat(stage, pool, victim) + moment)
    if silent:  # and not before: who hears nobody for a while asks everybody, so that everybody has just heard it
        stage.bed.silence(victim.host, pool.system.port)
    else:
        stage.refused[victim.host] = time.monotonic()
    stage.stillness.take()
    begun = pool.kill(victim)
    _await_end(stage, pool, victim, others, begun, mark, mode)
    stage.sheets[pool.name].samples["this machine late meanwhile"].append(stage.stillness.take())
    successor = pool.start(victim.host)
    if silent:  # not before somebody listens there, or the kernel would refuse what is still sent to the dead
        pool.until(lambda: successor.up, PATIENCE, "the next life up")
        stage.bed.voice(victim.host)


def _last_heartbeat(stage: Stage, pool: PeerPool, victim: PeerMember) -> float:
    """When it has just said to those who watch it that it lives; the present moment for who says so to nobody."""
    with stage.bed.ear(victim.host, pool.system.port) as ear:
        return ear.heartbeat(min(MONITORS, stage.size - 1), 2 * PERIOD) or time.monotonic()


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def leaves(stage: Stage, times: int) -> None:
    """SIGTERM, in turn at each system; how soon all others know that it has left."""
    for turn in range(times):
        for pool in filter(partial(_found_together, stage), stage.pools):
            victim, others, mark = _choose(stage, pool)
            begun = pool.signal(victim, signal.SIGTERM)
            pool.forget(victim)
            _await_end(stage, pool, victim, others, begun, mark, "leave")
            pool.start(victim.host)
        stage.say(f"{turn + 1} of {times}: " + _latest(stage, "leave, all"))


def _found_together(stage: Stage, pool: PeerPool) -> bool:
    """Whether the pool has one view again; a peer that has none misses its turn, and that is on its sheet."""
    try:
        pool.settle()
    except PoolTrouble as trouble:
        if pool.name == OURS:
            raise
        stage.say(f"misses its turn: {trouble}")
        stage.sheets[pool.name].add("turns missed for want of one view")
        return False
    return True


def _choose(stage: Stage, pool: PeerPool, rested: bool = False) -> tuple[PeerMember, list[PeerMember], int]:
    """Somebody, after a moment of peace; with ``rested`` on a host whose kernel has its refusals together again."""
    pool.settle()
    time.sleep(CALM + stage.rng.uniform(0, PERIOD))
    since = {member: time.monotonic() - stage.refused.get(member.host, -REST_SECONDS) for member in pool.members}
    fit = [member for member, seconds in since.items() if seconds >= REST_SECONDS or not rested]
    if not fit:
        fit = [max(since, key=lambda member: since[member])]
        time.sleep(REST_SECONDS - since[fit[0]])
    victim = stage.rng.choice(fit)
    return victim, [member for member in pool.members if member is not victim], pool.mark()


def _await_end(
    stage: Stage, pool: PeerPool, victim: PeerMember, others: Sequence[PeerMember], begun: float, mark: int, mode: str
) -> None:
    """Until nobody holds the victim any more; who was wrongly thrown out meanwhile is counted."""
    sheet = stage.sheets[pool.name]
    seen = pool.until(lambda: all(victim.name not in other.view for other in others), PATIENCE)
    names = {other.name for other in others}
    ends = [s for s in pool.since(mark) if s.event in ("gone", "left") and s.observer in names]
    times = _firsts(s for s in ends if s.who == victim.name)
    if times:
        sheet.samples[f"{mode}, first"].append(min(times.values()) - begun)
    if seen:
        sheet.samples[f"{mode}, all"].append(max(times.values()) - begun)
    else:
        sheet.add(f"{mode}: not known to all in {PATIENCE:g} s")
    sheet.add(WRONGLY, sum(s.who in names for s in ends))


def _firsts(sightings: Iterable[Sighting]) -> dict[str, float]:
    """When each observer first said so."""
    found: dict[str, float] = {}
    for sighting in sightings:
        found.setdefault(sighting.observer, sighting.at)
    return found


def _latest(stage: Stage, *what: str) -> str:
    parts = []
    for pool in stage.pools:
        samples = stage.sheets[pool.name].samples
        parts.append(f"{pool.name} " + " / ".join(f"{samples[one][-1]:.3f}" if samples[one] else "-" for one in what))
    return ", ".join(parts)


def worker_crashes(stage: Stage, times: int) -> None:
    """The worker's process is killed beside a living sidecar (``--worker-pid``); how soon all others know."""
    (pool,) = stage.pools
    sheet = stage.sheets[pool.name]
    with ExitStack() as stack:
        for turn in range(times):
            worker = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
            stack.callback(worker.kill)
            victim, others, mark = _choose(stage, pool)
            pool.kill(victim)
            victim = pool.start(victim.host, "--worker-pid", str(worker.pid))
            pool.settle()
            pool.until(_worker_seen(pool, mark, victim), PATIENCE, "the newcomer's worker passing")
            time.sleep(CALM + stage.rng.uniform(0, PERIOD))
            mark = pool.mark()
            begun = time.monotonic()
            worker.kill()
            pool.until(_updated(pool, mark, victim, others), PATIENCE, "the worker's end")
            known = _firsts(s for s in pool.since(mark) if s.event == "updated" and s.who == victim.name)
            sheet.samples["worker crash, first"].append(min(known.values()) - begun)
            sheet.samples["worker crash, all"].append(max(known.values()) - begun)
            stage.say(f"{turn + 1} of {times}: {sheet.samples['worker crash, all'][-1]:.4f}")


def _worker_seen(pool: PeerPool, mark: int, victim: PeerMember) -> Callable[[], bool]:
    """The sidecar itself has said something of its worker."""
    return lambda: any(s.event == "worker" and s.observer == victim.name for s in pool.sightings[mark:])


def _updated(pool: PeerPool, mark: int, victim: PeerMember, others: Sequence[PeerMember]) -> Callable[[], bool]:
    def test() -> bool:
        told = (s for s in pool.sightings[mark:] if s.event == "updated" and s.who == victim.name)
        return len({s.observer for s in told}) >= len(others)

    return test


# --- a while of trouble, for all systems at once


def lossy(stage: Stage, seconds: float, share: float) -> None:
    """A share of everything is lost on its way in, everywhere; nobody has died."""
    _watch(stage, seconds, lambda: stage.bed.lose(share))


def one_way(stage: Stage, seconds: float) -> None:
    """Nothing from one member reaches one other; the other way, and all other ways, are open."""
    first, second = stage.rng.sample(stage.bed.hosts, 2)
    _watch(stage, seconds, lambda: stage.bed.cut(first, second))


def _watch(stage: Stage, seconds: float, begin: Callable[[], None]) -> None:
    marks = _marks(stage)
    begin()
    _sleep(stage, seconds)
    _count_wrong(stage, marks)
    stage.bed.mend()
    _await_one_view(stage, time.monotonic(), "one view after mending")


def _marks(stage: Stage) -> dict[str, int]:
    for pool in stage.pools:
        _found_together(stage, pool)
    time.sleep(CALM)
    return {pool.name: pool.mark() for pool in stage.pools}


def _sleep(stage: Stage, seconds: float) -> None:
    stage.stillness.take()
    begun = time.monotonic()
    while (left := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(10.0, left))
        late = stage.stillness.take() * 1000
        stage.say(f"{time.monotonic() - begun:.0f} of {seconds:.0f} s, this machine late by {late:.0f} ms")


def _count_wrong(stage: Stage, marks: dict[str, int], but: Iterable[NetnsHost] = ()) -> None:
    """Evictions of members that run, one for each observer; on the hosts left out, they count as theirs."""
    left_out = {host.number for host in but}
    for pool in stage.pools:
        sheet = stage.sheets[pool.name]
        hosts = {member.name: member.host.number for member in pool.members}
        said = [s for s in pool.since(marks[pool.name]) if s.who in hosts]
        gone = [s for s in said if s.event == "gone"]
        wrong = [s for s in gone if hosts[s.who] not in left_out]
        sheet.add(WRONGLY, len(wrong))
        sheet.add("different ones of them", len({s.who for s in wrong}))
        if left_out:
            sheet.add("troubled members evicted", len(gone) - len(wrong))
            sheet.add("evictions by troubled members", sum(hosts[s.observer] in left_out for s in wrong))
        sheet.add("suspicions", sum(s.event == "suspected" for s in said))


def _await_one_view(stage: Stage, begun: float, what: str) -> None:
    """Each system's time from then until its last member holds all others, by the members' own stamps."""
    for pool in stage.pools:
        sheet = stage.sheets[pool.name]
        if pool.until(pool.one_view, HEALING_SECONDS):
            joins = [s.at for s in pool.sightings if s.event in ("joined", "refuted") and s.at > begun]
            sheet.samples[what].append(max(joins, default=begun) - begun)
        else:
            sheet.add(f"{what}: none in {HEALING_SECONDS:g} s")


def partition(stage: Stage, seconds: float) -> None:
    """Two halves that do not hear each other for so long."""
    _marks(stage)
    half = len(stage.bed) // 2
    stage.bed.split(stage.bed.hosts[:half], stage.bed.hosts[half:])
    _sleep(stage, seconds)
    begun = time.monotonic()
    stage.bed.mend()
    _await_one_view(stage, begun, "healed to one view")


def stops(stage: Stage, seconds: float) -> None:
    """One member is stopped for .3 to 1.5 s again and again (SIGSTOP), at each system at the same moments."""
    host = stage.rng.choice(stage.bed.hosts)
    victims = {pool.name: next(m for m in pool.members if m.host is host) for pool in stage.pools}
    marks = _marks(stage)
    episodes: dict[str, list[tuple[float, float]]] = {pool.name: [] for pool in stage.pools}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        begun = {pool.name: pool.signal(victims[pool.name], signal.SIGSTOP) for pool in stage.pools}
        time.sleep(stage.rng.uniform(0.3, 1.5))
        for pool in stage.pools:
            episodes[pool.name].append((begun[pool.name], pool.signal(victims[pool.name], signal.SIGCONT)))
        time.sleep(stage.rng.uniform(0.7, 1.5))
    stage.say(f"{len(episodes[stage.pools[0].name])} stops")
    _await_one_view(stage, time.monotonic(), "one view after the last")
    _count_wrong(stage, marks, [host])
    for pool in stage.pools:
        _note_stops(stage, pool, victims[pool.name], episodes[pool.name])


def _note_stops(stage: Stage, pool: PeerPool, victim: PeerMember, episodes: Sequence[tuple[float, float]]) -> None:
    sheet = stage.sheets[pool.name]
    sheet.add("evicted though stopped for less than .4 s", 0)
    about = [s for s in pool.sightings if s.who == victim.name and s.observer != victim.name]
    for number, (begun, ended) in enumerate(episodes):
        following = episodes[number + 1][0] if number + 1 < len(episodes) else float("inf")
        here = [s for s in about if begun <= s.at < following]
        out = _firsts(s for s in here if s.event == "gone")
        back = _firsts(s for s in here if s.event == "joined" and s.at > ended)
        if ended - begun < 0.4:
            sheet.add("stops of less than .4 s")
            sheet.add("evicted though stopped for less than .4 s", len(out))
        elif ended - begun >= 0.8:
            whole = len(out) == len(pool.members) - 1
            sheet.add("stops of .8 s and more")
            sheet.add("of these, out everywhere before it went on", whole and max(out.values()) < ended)
            if whole:
                sheet.samples["stopped to out everywhere"].append(max(out.values()) - begun)
        if out:
            sheet.add("stops that ended in an eviction")
            sheet.add("of these, back everywhere before the next", out.keys() <= back.keys())
            if back and out.keys() <= back.keys():
                sheet.samples["resumed to back everywhere"].append(max(back[name] for name in out) - ended)


def starved(stage: Stage, seconds: float, count: int) -> None:
    """So many members share one processor with stress-ng, at the lowest priority; all others have the other one."""
    hosts = stage.rng.sample(stage.bed.hosts, count)
    for pool in stage.pools:
        for member in pool.members:
            pin([member.process.pid], 0 if member.host in hosts else 1)
            if member.host in hosts:
                subprocess.run(["renice", "-n", "19", "-p", str(member.process.pid)], check=True, capture_output=True)
    marks = _marks(stage)
    argv = ["stress-ng", "--cpu", "16", "--taskset", "0", "--timeout", f"{seconds:.0f}s", "--quiet"]
    with subprocess.Popen(argv) as stress:
        _sleep(stage, seconds)
        stress.wait()
    _count_wrong(stage, marks, hosts)
    for pool in stage.pools:
        paused = sum(s.event == "paused" for s in pool.since(marks[pool.name]))
        stage.sheets[pool.name].add("own pauses noticed", paused)
    _await_one_view(stage, time.monotonic(), "one view after it")


# --- cost, and beginnings


def idle(stage: Stage, seconds: float) -> None:
    """Nothing happens; what it costs."""
    _marks(stage)
    time.sleep(5.0)
    before = {pool.name: _cost(stage, pool) for pool in stage.pools}
    begun = time.monotonic()
    _sleep(stage, seconds)
    took = time.monotonic() - begun
    for pool in stage.pools:
        sheet = stage.sheets[pool.name]
        packets, octets, cpu = (
            after - start for after, start in zip(_cost(stage, pool), before[pool.name], strict=True)
        )
        each = took * stage.size
        sheet.numbers["packets sent /s/node"] = packets / each
        sheet.numbers["bytes sent /s/node"] = octets / each
        sheet.numbers["CPU s /node-minute"] = cpu * 60 / each
        sheet.numbers["RSS MB, median"] = statistics.median(member.rss() for member in pool.members) / 1e6
    if peer := stage.sheets.get("memberlist"):
        for sheet in stage.sheets.values():
            sheet.numbers["CPU beside memberlist's"] = (
                sheet.numbers["CPU s /node-minute"] / peer.numbers["CPU s /node-minute"]
            )


def _cost(stage: Stage, pool: PeerPool) -> tuple[float, float, float]:
    """Packets and bytes sent, and seconds of processor time, of the whole pool so far."""
    sent = stage.bed.sent(pool.system.port).values()
    return sum(n for n, _ in sent), sum(b for _, b in sent), sum(member.cpu() for member in pool.members)


def crowds(stage: Stage, times: int, count: int, limit: float) -> None:
    """So many nodes in one process join one of them at once, in turn at each system, at the peers each fourth turn.

    Stands on no bed.
    """
    for turn in range(times):
        for system in stage.systems:
            if turn % 4 and system.name != OURS:
                continue
            sheet = stage.sheets[system.name]
            done = subprocess.run(
                system.crowd(count, limit), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            sheet.samples["joined to one view"].append(found["seconds"])
            sheet.add(f"no view a second after it, or none in {limit:g} s", not found["one_view"])
            sheet.add(WRONGLY, found["gone"])
        latest = (f"{s.name} {stage.sheets[s.name].samples['joined to one view'][-1]:.2f}" for s in stage.systems)
        stage.say(f"{turn + 1} of {times}: {', '.join(latest)}")
