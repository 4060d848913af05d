"""One self-contained HTML page about a file of outcomes: charts, and tables with published figures of other systems.

A section appears if the file has runs for it. Sources of the published figures are in docs/understand/simulation.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from rumormill.simulations.html_page import html_page, html_table
from rumormill.simulations.lifeguard import GridCell
from rumormill.simulations.outcome import Detection, RunOutcome, median, quantile
from rumormill.simulations.plans import LIFEGUARD, JobOutcome
from rumormill.simulations.plots import distribution, line_chart, timeline_chart
from rumormill.simulations.slo import objectives

OTHERS = {
    "memberlist HEAD, LAN defaults": {3: "5.05 / 5.62 / 6.74", 16: "6.09 / 7.26 / 8.70", 64: "9.3", 128: "13.6"},
    "memberlist, 200 ms, SuspicionMult 3": {
        3: "0.80 / 0.95 / 1.38",
        16: "0.99 / 1.18 / 1.29",
        64: "1.41 / 1.47 / 1.85",
    },
    "memberlist, 200 ms, SuspicionMult 2": {3: "0.61 / 0.76 / 0.99", 16: "0.77 / 0.89 / 1.09", 64: "1.1 / 1.4 / 3.3"},
    "kinship 0.4, tuned to 200 ms": {3: "0.70-0.96", 16: "0.74-1.25"},
    "ringpop 10, tuned to 200 ms": {3: "0.42-0.69", 16: "0.82-0.93"},
    "serf 0.9, LAN defaults": {3: "5.2-6.6"},
}
"""Seconds from a crash until every survivor has evicted: min / median / max. Real sockets, one process per node."""


def render_report(done: Sequence[JobOutcome], measured: Mapping[int, Sequence[float]]) -> str:
    """The whole page. ``measured`` maps numbers of nodes to detection delays on real sockets, in seconds."""
    sections: list[tuple[str, Callable[[], str | None]]] = [
        ("Objectives", lambda: _objectives(done, measured)),
        ("Detection", lambda: _detection(done)),
        ("Detection, compared with other systems", lambda: _other_systems(done, measured)),
        ("The lab compared with a real network", lambda: _real_network(done, measured)),
        ("By number of nodes", lambda: _scale(done)),
        ("Accuracy", lambda: _accuracy(done)),
        ("Lifeguard's anomaly grid", lambda: _lifeguard(done)),
        ("Timelines", lambda: _timelines(done)),
        ("Traffic", lambda: _traffic(done)),
    ]
    hours = sum(d.outcome.seconds * d.job.nodes for d in done) / 3600
    intro = (
        f"{len(done)} runs, {hours:,.1f} node-hours of virtual time, real encoded and sealed datagrams. "
        "Each run is reproduced by its seed."
    )
    return html_page("rumormill: the lab", intro, ((title, make()) for title, make in sections))


def _objectives(done: Sequence[JobOutcome], measured: Mapping[int, Sequence[float]]) -> str | None:
    rows = [(o.claim, [o.bound, o.found, "met" if o.met else "MISSED", o.evidence]) for o in objectives(done, measured)]
    return html_table(["", "objective", "measured", "", "based on"], rows, kind="objectives") if rows else None


def _detection(done: Sequence[JobOutcome]) -> str | None:
    """How soon survivors learn of a crash, as a distribution. Survivors that never learned count as well."""
    ours = {f"{n} nodes": _detections(done, "rumormill", n) for n in sorted({d.job.nodes for d in done})}
    if not any(ours.values()):
        return None
    beside = {
        f"{protocol}, {nodes} nodes": _detections(done, protocol, nodes)
        for protocol in ("rumormill", "swim-tuned", "swim-paper")
        for nodes in (16, 128)
    }
    label = "seconds from the crash to a survivor's eviction of it"
    note = "<p class='n'>No rule of three missed heartbeats of 200 ms can be faster than 0.40 to 0.60 s.</p>"
    several = sum(map(bool, beside.values())) > 2
    return (
        _broadcast(ours, label)
        + note
        + (_broadcast(beside, f"{label}; plain SWIM and rumormill", log_x=True) if several else "")
    )


def _broadcast(series: Mapping[str, Sequence[Detection]], label: str, *, log_x: bool = False) -> str:
    delays = {name: [x for d in deaths for x in d.delays] for name, deaths in series.items()}
    missing = {name: sum(d.survivors - len(d.delays) for d in deaths) for name, deaths in series.items()}
    known = {name: values for name, values in delays.items() if values}
    never = "; ".join(
        f"{name}: {missing[name]} of {len(values) + missing[name]}" for name, values in known.items() if missing[name]
    )
    note = f"<p class='n'>Survivors that never learned: {escape(never)}.</p>" if never else ""
    return distribution(known, label, missing=missing, log_x=log_x) + note


def _other_systems(done: Sequence[JobOutcome], measured: Mapping[int, Sequence[float]]) -> str | None:
    sizes = (3, 16, 64, 128)
    rows: list[tuple[str, list[str]]] = []
    for protocol in ("rumormill", "swim-tuned", "swim-paper"):
        cells = [_three(_everywhere(done, protocol, nodes)) for nodes in sizes]
        if any(cells):
            rows.append((f"{protocol}, lab", cells))
    if not rows:
        return None
    if measured:
        rows.append(("rumormill, real processes", [_three(list(measured.get(nodes, ()))) for nodes in sizes]))
    rows += [(name, [figures.get(nodes, "") for nodes in sizes]) for name, figures in OTHERS.items()]
    note = (
        "<p class='n'>Seconds from a crash until every survivor has evicted: min / median / max. Other systems were "
        "measured on real sockets with one process per node.</p>"
    )
    return note + html_table(
        ["", *(f"N={n}" for n in sizes)], rows, highlight=lambda name: name.startswith("rumormill")
    )


def _real_network(done: Sequence[JobOutcome], measured: Mapping[int, Sequence[float]]) -> str | None:
    rows = []
    for nodes, delays in sorted(measured.items()):
        lab, real = median(_everywhere(done, "rumormill", nodes)), median(delays)
        if lab is not None and real is not None:
            rows.append((f"N={nodes}", [f"{lab:.3f}", f"{real:.3f}", f"{100 * (lab - real) / real:+.0f} %"]))
    return (
        html_table(["median, crash to evicted everywhere", "lab, s", "real, s", "difference"], rows) if rows else None
    )


def _scale(done: Sequence[JobOutcome]) -> str | None:
    crashes = _by_nodes(_of(done, "crash", "rumormill"))
    starts = _by_nodes([*_of(done, "bootstrap", "rumormill"), *_of(done, "crash", "rumormill")])
    if len(crashes) < 3:
        return None
    delays = {nodes: [x for o in runs for x in o.detection_delays] for nodes, runs in crashes.items()}
    detection = {  # the first survivor is only milliseconds earlier, so only the table shows it
        "a survivor learns of a crash, median": [(n, median(delays[n]) or 0.0) for n in crashes],
        "99 %": [(n, quantile(delays[n], 0.99) or 0.0) for n in crashes],
    }
    joins = {"one view, all started at once with one seed": _line(starts, lambda o: o.joined_after)}
    sent = {"datagrams": _line(crashes, lambda o: o.steady[0])}
    octets = {"UDP payload": _line(crashes, lambda o: o.steady[1])}
    return "".join(
        [
            line_chart(detection, "nodes", "seconds", log_x=True),
            line_chart(joins, "nodes", "seconds", log_x=True),
            line_chart(sent, "nodes", "datagrams/s per node", log_x=True),
            line_chart(octets, "nodes", "bytes/s per node", log_x=True),
            _scale_table(crashes, starts),
        ]
    )


def _scale_table(crashes: Mapping[int, list[RunOutcome]], starts: Mapping[int, list[RunOutcome]]) -> str:
    rows = []
    for nodes, runs in crashes.items():
        delays = [x for o in runs for x in o.detection_delays]
        spreads = [d.delays[-1] - d.delays[0] for o in runs for d in o.detections if d.everywhere is not None]
        joined = [o.joined_after for o in starts.get(nodes, []) if o.joined_after is not None]
        figures = (
            *(median(_firsts(runs)), median(delays), quantile(delays, 0.99), max(delays, default=None)),
            *(median(spreads), median(o.steady[0] for o in runs), median(o.steady[1] for o in runs)),
            *(float(sum(len(o.false_evictions) for o in runs)), median(joined)),
        )
        rows.append((str(nodes), [_figure(figure) for figure in figures]))
    heads = ["N", "first, s", "median, s", "p99, s", "max, s", "first to last, s", "datagrams/s per node"]
    heads += ["bytes/s per node", "false evictions", "one view at start, s"]
    return html_table(heads, rows)


def _accuracy(done: Sequence[JobOutcome]) -> str | None:
    """False evictions and healing, by scenario and protocol."""
    groups: dict[tuple[str, int, float, str], list[RunOutcome]] = defaultdict(list)
    for d in done:
        if not d.job.scenario.startswith("lifeguard") and d.job.scenario not in ("crash", "slow-crash", "bootstrap"):
            groups[(d.job.scenario, d.job.nodes, d.job.loss, d.job.protocol)].append(d.outcome)
    rows = []
    for (scenario, nodes, loss, protocol), runs in sorted(groups.items()):
        heals = [heal for o in runs for heal in o.heals if heal is not None]
        lost = sum(heal is None for o in runs for heal in o.heals)
        wrong = sum(len(o.false_evictions) for o in runs)
        hours = sum(o.seconds * o.nodes for o in runs) / 3600
        cells = [protocol, str(nodes), f"{100 * loss:.0f} %", str(len(runs)), f"{hours:.1f}", str(wrong)]
        cells += [_figure(median(heals)), _figure(max(heals, default=None)), str(lost) if heals or lost else ""]
        cells += [str(sum(o.one_view_after is None for o in runs))]
        rows.append((scenario, cells))
    heads = ["scenario", "protocol", "N", "loss", "runs", "node-hours", "false evictions", "heal to one view, median s"]
    heads += ["max, s", "not in time", "no view at the end"]
    note = (
        "<p class='n'>A false eviction: one observer evicts one member that runs, is neither frozen nor slowed, and is "
        "not cut off from it. The plain SWIM here has no anti-entropy sync (memberlist's push/pull), so a member that "
        "misses an update may never learn it.</p>"
    )
    return note + html_table(heads, rows, highlight=lambda _: False) if rows else None


def _lifeguard(done: Sequence[JobOutcome]) -> str | None:
    cells: dict[str, dict[GridCell, list[RunOutcome]]] = defaultdict(lambda: defaultdict(list))
    for d in done:
        if d.job.scenario.startswith(LIFEGUARD):
            cells[d.job.protocol][GridCell.parse(d.job.scenario.removeprefix(LIFEGUARD))].append(d.outcome)
    if not cells:
        return None
    parts = []
    for protocol, by_cell in sorted(cells.items()):
        parts.append(f"<h3>{escape(protocol)}</h3>{_lifeguard_table(by_cell)}")
    note = (
        "<p class='n'>C of 128 members are frozen in lock-step for D ms, then run for I ms, for 60 s. False evictions "
        "of healthy members by any observer, summed over all I and seeds (number of runs in brackets). In the paper, "
        "SWIM had 339&nbsp;002 false positives, 1&nbsp;326 of them healthy members; Lifeguard 5&nbsp;193 and 25.</p>"
    )
    return note + "".join(parts) + _blocks_table(cells.get("rumormill", {}))


def _lifeguard_table(by_cell: Mapping[GridCell, Sequence[RunOutcome]]) -> str:
    durations = sorted({cell.duration_ms for cell in by_cell})
    rows = []
    for concurrent in sorted({cell.concurrent for cell in by_cell}):
        cells = []
        for duration in durations:
            runs = [
                outcome
                for cell, outcomes in by_cell.items()
                if (cell.concurrent, cell.duration_ms) == (concurrent, duration)
                for outcome in outcomes
            ]
            cells.append(f"{sum(len(o.false_evictions) for o in runs)} ({len(runs)})" if runs else "")
        rows.append((f"C={concurrent}", cells))
    return html_table(["", *(f"D={duration}" for duration in durations)], rows, highlight=lambda _: False)


def _blocks_table(by_cell: Mapping[GridCell, Sequence[RunOutcome]]) -> str:
    """What became of the blocked members, by duration."""
    rows = []
    for duration in sorted({cell.duration_ms for cell in by_cell}):
        blocks = [
            block
            for cell, outcomes in by_cell.items()
            if cell.duration_ms == duration
            for outcome in outcomes
            for block in outcome.blocks
            if abs(block.seconds - duration / 1000) < 1e-6
        ]
        evicted = [block for block in blocks if block.evicted_by]
        back = [block.back_after for block in evicted if block.back_after is not None]
        cells = [str(len(blocks)), str(len(evicted)), _figure(median(back)), _figure(quantile(back, 0.99))]
        rows.append((f"{duration} ms", [*cells, _figure(max(back, default=None))]))
    if not rows:
        return ""
    heads = ["blocked for", "blocks", "evicted by any", "back everywhere after, median s", "p99, s", "max, s"]
    note = (
        "<p class='n'>Three misses take 0.43 to 0.63 s from the last heartbeat. So pauses of 512 ms seldom end in an "
        "eviction, and longer ones always do.</p>"
    )
    return "<h3>The blocked members</h3>" + note + html_table(heads, rows, highlight=lambda _: False)


def _timelines(done: Sequence[JobOutcome]) -> str | None:
    seen: set[tuple[str, str]] = set()
    parts = []
    for d in done:
        timeline = d.outcome.timeline
        if timeline is None or not 8 <= d.job.nodes <= 32 or (d.job.scenario, d.job.protocol) in seen:
            continue
        if d.job.scenario in ("bootstrap", "crash", "slow-crash", "lossy-hour"):
            continue
        seen.add((d.job.scenario, d.job.protocol))
        title = f"{d.job.scenario}, {d.job.nodes} nodes, {d.job.protocol}, seed {d.job.seed}"
        parts.append(f"<h3>{escape(title)}</h3>{timeline_chart(timeline)}")
    return "".join(parts) or None


def _traffic(done: Sequence[JobOutcome]) -> str | None:
    series = {}
    for scenario in ("even-split", "rack", "rolling-restart", "one-slow", "wan"):
        runs = _of(done, scenario, "rumormill")
        if runs:
            run = max(runs, key=lambda d: d.job.nodes)
            points = [(t.at, t.bytes / t.members) for t in run.outcome.traffic if t.members and t.bytes]
            series[f"{scenario}, {run.job.nodes} nodes"] = points
    if not series:
        return None
    return line_chart(series, "seconds", "bytes/s per node, log scale", log_y=True, dots=False)


def _of(done: Iterable[JobOutcome], scenario: str, protocol: str) -> list[JobOutcome]:
    """Runs on the LAN, at the default period, without loss."""
    if (scenario, protocol) == ("crash", "swim-paper"):
        scenario = "slow-crash"
    return [
        d
        for d in done
        if (d.job.scenario, d.job.protocol, d.job.loss, d.job.latency, d.job.period)
        == (scenario, protocol, 0.0, "lan", 0.2)
    ]


def _by_nodes(done: Sequence[JobOutcome]) -> dict[int, list[RunOutcome]]:
    sizes = sorted({d.job.nodes for d in done})
    return {nodes: [d.outcome for d in done if d.job.nodes == nodes] for nodes in sizes}


def _detections(done: Sequence[JobOutcome], protocol: str, nodes: int) -> list[Detection]:
    return [x for d in _of(done, "crash", protocol) if d.job.nodes == nodes for x in d.outcome.detections]


def _everywhere(done: Sequence[JobOutcome], protocol: str, nodes: int) -> list[float]:
    return [d.everywhere for d in _detections(done, protocol, nodes) if d.everywhere is not None]


def _firsts(runs: Sequence[RunOutcome]) -> list[float]:
    return [d.first for o in runs for d in o.detections if d.first is not None]


def _line(
    groups: Mapping[int, list[RunOutcome]], of: Callable[[RunOutcome], float | None]
) -> list[tuple[float, float]]:
    points = []
    for nodes, runs in groups.items():
        values = [value for o in runs if (value := of(o)) is not None]
        if values:
            points.append((float(nodes), median(values) or 0.0))
    return points


def _three(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{min(values):.2f} / {median(values):.2f} / {max(values):.2f}"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
