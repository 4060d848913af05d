"""The protocol's service level objectives, each checked against the outcomes of the lab.

The bounds are what a user may rely on, not what the code happens to reach. None is a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rumormill.simulations.lifeguard import GridCell
from rumormill.simulations.outcome import Block, RunOutcome, median, quantile
from rumormill.simulations.plans import LIFEGUARD, JobOutcome

SHORT_BLOCK = 0.4
"""Seconds: two periods. A shorter pause never ends in an eviction."""
LONG_BLOCK = 1.5
"""Seconds. Long enough for other members to take over from monitors that were paused as well."""
BACK = 0.3
"""Seconds from the end of a pause until every member holds the paused one alive again."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective, and what these runs show about it."""

    claim: str
    bound: str
    found: str
    met: bool
    evidence: str
    """The number of runs, crashes or hours it is based on."""


def objectives(
    done: Sequence[JobOutcome], measured: Mapping[int, Sequence[float]] = MappingProxyType({})
) -> list[Objective]:
    """The objectives for which there are outcomes, in a fixed order.

    ``measured`` maps numbers of nodes to detection delays (crash to evicted everywhere) on real sockets, in seconds.
    """
    ours = [d for d in done if d.job.protocol == "rumormill" and d.job.latency == "lan" and d.job.period == 0.2]
    makers: tuple[Callable[[Sequence[JobOutcome]], Iterable[Objective]], ...] = (
        *(_detection, _flat_detection, _flat_traffic, _lossy, _split, _bootstrap),
        *(_healthy, _short_blocks, _long_blocks, _once_a_block, _back_soon),
    )
    return [*(objective for make in makers for objective in make(ours)), *_agreement_with_reality(ours, measured)]


def _detection(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    for nodes, delays in _detection_delays(done).items():
        p99 = quantile(delays, 0.99) or 0.0
        claim = f"99 of 100 survivors know of a crash, {nodes} nodes"
        yield Objective(claim, "≤ 0.80 s", f"{p99:.2f} s", p99 <= 0.8, f"{len(delays)} survivors' delays")


def _flat_detection(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    p99s = {nodes: quantile(delays, 0.99) or 0.0 for nodes, delays in _detection_delays(done).items() if nodes >= 16}
    if len(p99s) >= 2:
        spread = max(p99s.values()) / min(p99s.values()) - 1
        yield Objective(
            "detection is as fast in large pools as in small ones",
            "within 25 %",
            _percent(spread),
            spread <= 0.25,
            _sizes(p99s),
        )


def _flat_traffic(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    rates: dict[int, list[float]] = {}
    for d in done:
        if d.job.scenario == "crash" and not d.job.loss and d.job.nodes >= 16:
            rates.setdefault(d.job.nodes, []).append(d.outcome.steady[0])
    means = {nodes: sum(values) / len(values) for nodes, values in sorted(rates.items())}
    if len(means) >= 2:
        spread = max(means.values()) / min(means.values()) - 1
        found = f"{_percent(spread)}, at most {max(means.values()):.1f}/s"
        yield Objective(
            "a member sends as much in large pools as in small ones", "within 10 %", found, spread <= 0.1, _sizes(means)
        )


def _lossy(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    for loss, allowed_hours in ((0.1, None), (0.3, 50.0)):
        runs = [d.outcome for d in done if d.job.scenario == "lossy-hour" and d.job.loss == loss]
        if runs:
            false_evictions, hours = _false_evictions(runs), _node_hours(runs)
            allowed = 0.0 if allowed_hours is None else max(1.0, hours / allowed_hours)
            bound = "0" if allowed_hours is None else f"1 in {allowed_hours:.0f} node-hours"
            claim = f"no healthy member is evicted at {_percent(loss)} independent loss"
            yield Objective(claim, bound, str(false_evictions), false_evictions <= allowed, f"{hours:,.0f} node-hours")


def _split(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    heals = [heal for d in done if (d.job.scenario, d.job.nodes) == ("even-split", 128) for heal in d.outcome.heals]
    if heals:
        slowest = max((heal for heal in heals if heal is not None), default=0.0)
        late = sum(heal is None or heal > 3.0 for heal in heals)
        claim = "two halves of 128, split for a minute, return to one view"
        yield Objective(claim, "≤ 3 s", f"{slowest:.2f} s, {late} late", not late, f"{len(heals)} splits")


def _bootstrap(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    runs = [d.outcome for d in done if (d.job.scenario, d.job.nodes) == ("bootstrap", 1000)]
    if runs:
        slowest = max((o.joined_after for o in runs if o.joined_after is not None), default=0.0)
        bad = sum(o.joined_after is None or o.joined_after > 3.0 or o.evictions > 0 for o in runs)
        claim = "1000 members started at once with one seed reach one view without evictions"
        yield Objective(claim, "≤ 3 s", f"{slowest:.2f} s, {bad} late or flapping", not bad, f"{len(runs)} starts")


def _healthy(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    if runs := _grid(done):
        false_evictions = _false_evictions(runs)
        claim = "Lifeguard's grid: no healthy member is evicted"
        yield Objective(
            claim,
            "0",
            str(false_evictions),
            not false_evictions,
            f"{len(runs)} cells, {_node_hours(runs):,.0f} node-hours",
        )


def _short_blocks(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    if blocks := [b for b in _blocks(done) if b.seconds < SHORT_BLOCK]:
        evicted = sum(block.evictions > 0 for block in blocks)
        yield Objective(
            "a pause under 0.4 s never ends in an eviction", "0", str(evicted), not evicted, f"{len(blocks)} pauses"
        )


def _long_blocks(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    """An observer that still lacks a member since its last pause cannot evict it again."""
    pauses = escaped = 0
    for d in done:
        if not d.job.scenario.startswith(LIFEGUARD):
            continue
        healthy = d.job.nodes - GridCell.parse(d.job.scenario.removeprefix(LIFEGUARD)).concurrent
        lacking: dict[str, int] = {}
        for block in d.outcome.blocks:
            if block.seconds >= LONG_BLOCK:
                pauses += 1
                escaped += block.evicted_by + lacking.get(block.member, 0) < healthy
            lacking[block.member] = block.missing
    if pauses:
        claim = "after a pause of 1.5 s, every healthy member has evicted the paused one"
        yield Objective(claim, "all", f"{pauses - escaped} of {pauses}", not escaped, f"{pauses} pauses")


def _once_a_block(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    if blocks := [b for b in _blocks(done) if b.seconds >= SHORT_BLOCK]:
        twice = sum(block.evictions > block.evicted_by for block in blocks)
        claim = "an observer evicts a member at most once per longer pause"
        yield Objective(claim, "0 twice", f"{twice} twice", not twice, f"{len(blocks)} pauses")


def _back_soon(done: Sequence[JobOutcome]) -> Iterable[Objective]:
    """Only members that ran long enough after the pause count."""
    if blocks := [b for b in _blocks(done) if b.free >= BACK and (b.evicted_by or b.back_after is not None)]:
        slowest = max((block.back_after or 0.0 for block in blocks), default=0.0)
        late = sum(block.missing > 0 or (block.back_after or 0.0) > BACK for block in blocks)
        claim = "after a longer pause, every member holds the paused one alive again"
        yield Objective(claim, "≤ 0.3 s", f"{slowest:.3f} s, {late} late", not late, f"{len(blocks)} returns")


def _agreement_with_reality(done: Sequence[JobOutcome], measured: Mapping[int, Sequence[float]]) -> Iterable[Objective]:
    for nodes, delays in sorted(measured.items()):
        real = median(delays)
        lab = median(
            detection.everywhere
            for d in done
            if (d.job.scenario, d.job.nodes, d.job.loss) == ("crash", nodes, 0.0)
            for detection in d.outcome.detections
            if detection.everywhere is not None
        )
        if real is not None and lab is not None:
            apart = lab / real - 1
            claim = f"the lab and {nodes} real processes agree on the median detection time"
            found = f"{lab:.2f} s and {real:.2f} s, {100 * apart:+.0f} %"
            yield Objective(claim, "within 15 %", found, abs(apart) <= 0.15, f"{len(delays)} real kills")


def _detection_delays(done: Sequence[JobOutcome]) -> dict[int, list[float]]:
    delays: dict[int, list[float]] = {}
    for d in done:
        if d.job.scenario == "crash" and not d.job.loss:
            missed = sum(x.survivors - len(x.delays) for x in d.outcome.detections)
            delays.setdefault(d.job.nodes, []).extend([*d.outcome.detection_delays, *[float("inf")] * missed])
    return dict(sorted(delays.items()))


def _grid(done: Sequence[JobOutcome]) -> list[RunOutcome]:
    return [d.outcome for d in done if d.job.scenario.startswith(LIFEGUARD)]


def _blocks(done: Sequence[JobOutcome]) -> list[Block]:
    return [block for outcome in _grid(done) for block in outcome.blocks]


def _false_evictions(runs: Sequence[RunOutcome]) -> int:
    return sum(len(outcome.false_evictions) for outcome in runs)


def _node_hours(runs: Sequence[RunOutcome]) -> float:
    return sum(outcome.seconds * outcome.nodes for outcome in runs) / 3600


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _sizes(by_nodes: Iterable[int]) -> str:
    return "N = " + ", ".join(map(str, by_nodes))
