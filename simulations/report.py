"""One self-contained HTML page about a file of outcomes: pictures, and tables beside other people's figures.

Each section is there if its runs are. Figures of others are those of docs/understand/simulation.md, with sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from rumormill.simulations.lifeguard import Cell
from rumormill.simulations.outcome import Detection, RunOutcome, median, quantile
from rumormill.simulations.plans import LIFEGUARD, Done
from rumormill.simulations.plots import distribution, line_chart, raster
from rumormill.simulations.slo import objectives

OTHERS = {
    "memberlist HEAD, LAN defaults": {3: "5.05 / 5.62 / 6.74", 16: "6.09 / 7.26 / 8.70", 64: "9.3", 128: "13.6"},
    "memberlist, 200 ms, SuspicionMult 3": {3: ".80 / .95 / 1.38", 16: ".99 / 1.18 / 1.29", 64: "1.41 / 1.47 / 1.85"},
    "memberlist, 200 ms, SuspicionMult 2": {3: ".61 / .76 / .99", 16: ".77 / .89 / 1.09", 64: "1.1 / 1.4 / 3.3"},
    "kinship 0.4, tuned to 200 ms": {3: ".70-.96", 16: ".74-1.25"},
    "ringpop 10, tuned to 200 ms": {3: ".42-.69", 16: ".82-.93"},
    "serf 0.9, LAN defaults": {3: "5.2-6.6"},
}
"""Crash until every survivor has evicted, seconds, min / median / max; measured on real sockets, own processes."""

_STYLE = """
:root{color-scheme:light dark;--fg:#1e293b;--bg:#fff;--line:#cbd5e1;--soft:#64748b;--band:#f1f5f9}
@media(prefers-color-scheme:dark){:root{--fg:#e2e8f0;--bg:#0f172a;--line:#334155;--soft:#94a3b8;--band:#1e293b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:60rem;margin:2rem auto;
padding:0 1rem}h1{font-size:1.6rem}h2{margin-top:2.5rem;font-size:1.2rem}
.p{overflow-x:auto}svg{width:100%;min-width:30rem;height:auto;display:block}
.t{font-size:11px;fill:var(--soft)}.m{text-anchor:middle}.r{text-anchor:end}.a{stroke:var(--soft)}
.g{stroke:var(--line);stroke-width:.5}.legend{font-size:.85rem;margin:.3rem 0}.k{margin-right:1rem;white-space:nowrap}
.k i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}table{border-collapse:collapse;
font-size:.9rem;margin:.6rem 0;display:block;overflow-x:auto}td,th{padding:.25rem .7rem;border-bottom:1px solid
var(--line);text-align:right}td+td{white-space:nowrap}td:first-child,th:first-child{text-align:left}
table.say td:first-child{min-width:15rem}th{font-weight:600}
tr.us td{background:var(--band);font-weight:600}td.bad{background:#fecaca;color:#7f1d1d}p.n{color:var(--soft);
font-size:.88rem}
@media print{:root{color-scheme:light;--fg:#000;--bg:#fff;--line:#cbd5e1;--soft:#475569;--band:#f1f5f9}
body{font-size:11px;margin:0;padding:0;max-width:none;print-color-adjust:exact;-webkit-print-color-adjust:exact}
table{display:table}td,th{padding:.15rem .35rem}table.say td:first-child{min-width:0}.p{overflow:visible}
svg{min-width:0;max-width:34rem}h2,h3,.legend,p.n{break-after:avoid}.p,tr{break-inside:avoid}}
"""


def render_report(done: Sequence[Done], measured: Mapping[int, Sequence[float]]) -> str:
    """The whole page. ``measured`` maps numbers of nodes to detection delays found on real sockets, in seconds."""
    sections: list[tuple[str, Callable[[], str | None]]] = [
        ("What is promised, and what these runs say", lambda: _promises(done, measured)),
        ("Detection", lambda: _detection(done)),
        ("Beside other people's figures", lambda: _beside_others(done, measured)),
        ("The lab and the real network", lambda: _beside_reality(done, measured)),
        ("By number of nodes", lambda: _scale(done)),
        ("Accuracy", lambda: _accuracy(done)),
        ("Lifeguard's anomaly grid", lambda: _lifeguard(done)),
        ("Who believed what, when", lambda: _rasters(done)),
        ("What it sends", lambda: _traffic(done)),
    ]
    parts = []
    for title, make in sections:
        if body := make():
            parts.append(f"<section><h2>{escape(title)}</h2>{body}</section>")
    hours = sum(d.outcome.seconds * d.job.nodes for d in done) / 3600
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>rumormill: the lab</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        "<h1>rumormill: the lab</h1>"
        f"<p>{len(done)} runs, {hours:,.1f} node-hours of virtual time, real encoded and sealed datagrams. "
        "Each run is reproduced by its seed.</p>"
        f"{''.join(parts)}</body></html>\n"
    )


def _promises(done: Sequence[Done], measured: Mapping[int, Sequence[float]]) -> str | None:
    rows = [
        (p.says, [p.bound, p.found, "kept" if p.kept else "BROKEN", p.evidence]) for p in objectives(done, measured)
    ]
    return _table(["", "promised", "found", "", "seen in"], rows, kind="say") if rows else None


def _detection(done: Sequence[Done]) -> str | None:
    """How soon survivors know, as a distribution over survivors and deaths; who never learned counts as one."""
    ours = {f"{n} nodes": _detections(done, "rumormill", n) for n in sorted({d.job.nodes for d in done})}
    if not any(ours.values()):
        return None
    beside = {
        f"{protocol}, {nodes} nodes": _detections(done, protocol, nodes)
        for protocol in ("rumormill", "swim-tuned", "swim-paper")
        for nodes in (16, 128)
    }
    label = "seconds from the crash to a survivor's eviction of it"
    note = "<p class='n'>The floor of any rule of three missed heartbeats of 200 ms is .40 to .60 s.</p>"
    several = sum(map(bool, beside.values())) > 2
    return (
        _broadcast(ours, label)
        + note
        + (_broadcast(beside, f"{label}; plain SWIM beside ours", log_x=True) if several else "")
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


def _beside_others(done: Sequence[Done], measured: Mapping[int, Sequence[float]]) -> str | None:
    sizes = (3, 16, 64, 128)
    rows: list[tuple[str, list[str]]] = []
    for protocol in ("rumormill", "swim-tuned", "swim-paper"):
        cells = [_three(_everywhere(done, protocol, nodes)) for nodes in sizes]
        if any(cells):
            rows.append((f"{protocol}, in the lab", cells))
    if not rows:
        return None
    if measured:
        rows.append(("rumormill, own processes", [_three(list(measured.get(nodes, ()))) for nodes in sizes]))
    rows += [(name, [figures.get(nodes, "") for nodes in sizes]) for name, figures in OTHERS.items()]
    note = (
        "<p class='n'>Crash until every survivor has evicted, seconds: min / median / max. The others were measured on "
        "real sockets with one process a node.</p>"
    )
    return note + _table(["", *(f"N={n}" for n in sizes)], rows, ours=lambda name: name.startswith("rumormill"))


def _beside_reality(done: Sequence[Done], measured: Mapping[int, Sequence[float]]) -> str | None:
    rows = []
    for nodes, delays in sorted(measured.items()):
        lab, real = median(_everywhere(done, "rumormill", nodes)), median(delays)
        if lab is not None and real is not None:
            rows.append((f"N={nodes}", [f"{lab:.3f}", f"{real:.3f}", f"{100 * (lab - real) / real:+.0f} %"]))
    return _table(["median, crash to evicted everywhere", "lab, s", "real, s", "apart"], rows) if rows else None


def _scale(done: Sequence[Done]) -> str | None:
    crashes = _by_nodes(_of(done, "crash", "rumormill"))
    starts = _by_nodes([*_of(done, "bootstrap", "rumormill"), *_of(done, "crash", "rumormill")])
    if len(crashes) < 3:
        return None
    delays = {nodes: [x for o in runs for x in o.detection_delays] for nodes, runs in crashes.items()}
    detection = {  # the first survivor knows a millisecond before the others: one line, so it is in the table only
        "a survivor learns of a crash, median": [(n, median(delays[n]) or 0.0) for n in crashes],
        "99 %": [(n, quantile(delays[n], 0.99) or 0.0) for n in crashes],
    }
    joins = {"one view, all started at once on one seed": _line(starts, lambda o: o.joined_after)}
    sent = {"datagrams": _line(crashes, lambda o: o.steady[0])}
    octets = {"UDP payload": _line(crashes, lambda o: o.steady[1])}
    return "".join(
        [
            line_chart(detection, "nodes", "seconds", log_x=True),
            line_chart(joins, "nodes", "seconds", log_x=True),
            line_chart(sent, "nodes", "datagrams/s a node", log_x=True),
            line_chart(octets, "nodes", "bytes/s a node", log_x=True),
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
            *(float(sum(len(o.wrong) for o in runs)), median(joined)),
        )
        rows.append((str(nodes), [_figure(figure) for figure in figures]))
    heads = ["N", "first, s", "median, s", "p99, s", "max, s", "first to last, s", "datagrams/s a node"]
    heads += ["bytes/s a node", "wrong evictions", "one view at start, s"]
    return _table(heads, rows)


def _accuracy(done: Sequence[Done]) -> str | None:
    """Wrong evictions and healing, by scenario and protocol."""
    groups: dict[tuple[str, int, float, str], list[RunOutcome]] = defaultdict(list)
    for d in done:
        if not d.job.scenario.startswith("lifeguard") and d.job.scenario not in ("crash", "slow-crash", "bootstrap"):
            groups[(d.job.scenario, d.job.nodes, d.job.loss, d.job.protocol)].append(d.outcome)
    rows = []
    for (scenario, nodes, loss, protocol), runs in sorted(groups.items()):
        heals = [heal for o in runs for heal in o.heals if heal is not None]
        lost = sum(heal is None for o in runs for heal in o.heals)
        wrong = sum(len(o.wrong) for o in runs)
        hours = sum(o.seconds * o.nodes for o in runs) / 3600
        cells = [protocol, str(nodes), f"{100 * loss:.0f} %", str(len(runs)), f"{hours:.1f}", str(wrong)]
        cells += [_figure(median(heals)), _figure(max(heals, default=None)), str(lost) if heals or lost else ""]
        cells += [str(sum(o.one_view_after is None for o in runs))]
        rows.append((scenario, cells))
    heads = ["scenario", "protocol", "N", "loss", "runs", "node-hours", "wrong evictions", "heal to one view, median s"]
    heads += ["max, s", "not in time", "no view at the end"]
    note = (
        "<p class='n'>A wrong eviction is one observer evicting one member that ran, was neither frozen nor slowed at "
        "that moment, and was not cut off from it. Plain SWIM as it is played here compares no tables (memberlist's "
        "push/pull does): who misses a rumour may never hear it.</p>"
    )
    return note + _table(heads, rows, ours=lambda _: False) if rows else None


def _lifeguard(done: Sequence[Done]) -> str | None:
    cells: dict[str, dict[Cell, list[RunOutcome]]] = defaultdict(lambda: defaultdict(list))
    for d in done:
        if d.job.scenario.startswith(LIFEGUARD):
            cells[d.job.protocol][Cell.named(d.job.scenario.removeprefix(LIFEGUARD))].append(d.outcome)
    if not cells:
        return None
    parts = []
    for protocol, by_cell in sorted(cells.items()):
        parts.append(f"<h3>{escape(protocol)}</h3>{_lifeguard_table(by_cell)}")
    note = (
        "<p class='n'>C of 128 members frozen in lock-step for D ms, free for I ms, for 60 s. Wrong evictions of "
        "healthy members, by anyone, summed over all I and seeds (runs in brackets). In the paper SWIM declared "
        "339&nbsp;002 deaths wrongly, 1&nbsp;326 of them healthy members; Lifeguard 5&nbsp;193 and 25.</p>"
    )
    return note + "".join(parts) + _blocks_table(cells.get("rumormill", {}))


def _lifeguard_table(by_cell: Mapping[Cell, Sequence[RunOutcome]]) -> str:
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
            cells.append(f"{sum(len(o.wrong) for o in runs)} ({len(runs)})" if runs else "")
        rows.append((f"C={concurrent}", cells))
    return _table(["", *(f"D={duration}" for duration in durations)], rows, ours=lambda _: False)


def _blocks_table(by_cell: Mapping[Cell, Sequence[RunOutcome]]) -> str:
    """What became of the blocked themselves, by how long they were blocked."""
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
    heads = ["blocked for", "blocks", "evicted by anyone", "back everywhere after, median s", "p99, s", "max, s"]
    note = (
        "<p class='n'>Three misses take .43 to .63 s from the last heartbeat: two pauses of 512 ms with a heartbeat in "
        "between are seldom an eviction, longer ones always.</p>"
    )
    return "<h3>The blocked members themselves</h3>" + note + _table(heads, rows, ours=lambda _: False)


def _rasters(done: Sequence[Done]) -> str | None:
    seen: set[tuple[str, str]] = set()
    parts = []
    for d in done:
        picture = d.outcome.raster
        if picture is None or not 8 <= d.job.nodes <= 32 or (d.job.scenario, d.job.protocol) in seen:
            continue
        if d.job.scenario in ("bootstrap", "crash", "slow-crash", "lossy-hour"):
            continue
        seen.add((d.job.scenario, d.job.protocol))
        title = f"{d.job.scenario}, {d.job.nodes} nodes, {d.job.protocol}, seed {d.job.seed}"
        parts.append(f"<h3>{escape(title)}</h3>{raster(picture)}")
    return "".join(parts) or None


def _traffic(done: Sequence[Done]) -> str | None:
    series = {}
    for scenario in ("even-split", "rack", "rolling-restart", "one-slow", "wan"):
        runs = _of(done, scenario, "rumormill")
        if runs:
            run = max(runs, key=lambda d: d.job.nodes)
            points = [(t.at, t.bytes / t.members) for t in run.outcome.traffic if t.members and t.bytes]
            series[f"{scenario}, {run.job.nodes} nodes"] = points
    if not series:
        return None
    return line_chart(series, "seconds", "bytes/s a node, log scale", log_y=True, dots=False)


def _of(done: Iterable[Done], scenario: str, protocol: str) -> list[Done]:
    """Plain runs: on the LAN, at the usual period, without loss."""
    if (scenario, protocol) == ("crash", "swim-paper"):
        scenario = "slow-crash"
    return [
        d
        for d in done
        if (d.job.scenario, d.job.protocol, d.job.loss, d.job.latency, d.job.period)
        == (scenario, protocol, 0.0, "lan", 0.2)
    ]


def _by_nodes(done: Sequence[Done]) -> dict[int, list[RunOutcome]]:
    sizes = sorted({d.job.nodes for d in done})
    return {nodes: [d.outcome for d in done if d.job.nodes == nodes] for nodes in sizes}


def _detections(done: Sequence[Done], protocol: str, nodes: int) -> list[Detection]:
    return [x for d in _of(done, "crash", protocol) if d.job.nodes == nodes for x in d.outcome.detections]


def _everywhere(done: Sequence[Done], protocol: str, nodes: int) -> list[float]:
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


def _table(
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    ours: Callable[[str], bool] = lambda _: False,
    kind: str = "",
) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in heads)
    body = "".join(
        f"<tr{' class=us' if ours(name) else ''}><td>{escape(name)}</td>"
        + "".join(f"<td{' class=bad' if cell == 'BROKEN' else ''}>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows
    )
    opening = f'<table class="{kind}">' if kind else "<table>"
    return f"{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
