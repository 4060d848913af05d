"""``python -m bench.peers`` runs every scenario without figures yet, ``python -m bench.peers NAME ...`` those named.

Each writes its figures to a file of its own in --out as soon as it is done, so that a run that was stopped goes on
where it was; table and plot are made from whatever is there.
"""

from __future__ import annotations

import datetime
import os
import platform
import random
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import click
import msgspec

from bench.netns_testbed import why_not
from bench.peers.kinship import Kinship
from bench.peers.memberlist import Memberlist
from bench.peers.plot import detection_plot
from bench.peers.report import comparisons, read_results, result_of, table
from bench.peers.rumormill import Rumormill
from bench.peers.scenarios import SCENARIOS, PeerScenario
from bench.peers.stage import Sheet, Stage
from bench.peers.systems import System, Unavailable

SYSTEMS: dict[str, System] = {system.name: system for system in (Rumormill(), Memberlist(), Kinship())}


def say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}   {text}")


def prepared(wanted: list[str]) -> dict[str, str]:
    """The versions of the systems that can be had here; of the others is said why not."""
    versions = {}
    for name in wanted:
        try:
            versions[name] = SYSTEMS[name].prepare()
        except Unavailable as error:
            say(f"{name} is left out: {error}")
        else:
            say(f"{name} {versions[name]}")
    return versions


def measure(scenario: PeerScenario, systems: list[System], rng: random.Random, brief: bool) -> dict[str, Sheet]:
    """Do it; the figures of each system."""
    parameters = {**scenario.parameters, **(scenario.brief if brief else {})}
    sheets = {system.name: Sheet() for system in systems}
    turns = [(number, [system]) for number in range(scenario.rounds) for system in systems] or [(0, systems)]
    for number, present in turns:
        nth = (number, max(1, scenario.rounds))
        stage = Stage(present, scenario.size, scenario.conditions, rng, say, sheets, nth=nth)
        with stage if scenario.bed else nullcontext():
            scenario.measure(stage, **parameters)
    return sheets


def machine() -> str:
    return f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "listed", is_flag=True, help="The scenarios, and how long they take.")
@click.option("--brief", is_flag=True, help="A few kills and seconds of each: shows that it works, and is no figure.")
@click.option("--again", is_flag=True, help="Measure also what has figures already.")
@click.option("--system", "only", multiple=True, type=click.Choice(list(SYSTEMS)), help="Only this one; repeat it.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench-peers"), show_default=True)
@click.option("--seed", default=1, show_default=True, help="Chooses victims and moments.")
def main(
    names: tuple[str, ...], listed: bool, brief: bool, again: bool, only: tuple[str, ...], out: Path, seed: int
) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is taken down
    if listed:
        for scenario in SCENARIOS:
            click.echo(f"{scenario.name:18} {scenario.minutes:4.1f} min   {scenario.about}")
        click.echo(f"{'all':18} {sum(s.minutes for s in SCENARIOS):4.1f} min")
        return
    if unknown := set(names) - {scenario.name for scenario in SCENARIOS}:
        raise click.BadParameter(f"there is no scenario {sorted(unknown)[0]!r}; --list lists them")
    if (trouble := why_not()) is not None:
        click.echo(f"error: no test bed can be made here: {trouble}", err=True)
        sys.exit(1)
    out.mkdir(parents=True, exist_ok=True)
    versions = prepared(list(only or SYSTEMS))
    for scenario in SCENARIOS:
        file = out / f"{scenario.name}.json"
        if (names and scenario.name not in names) or (file.exists() and not (again or names)):
            continue
        systems = [SYSTEMS[name] for name in scenario.systems if name in versions]
        if not systems:
            continue
        say(f"=== {scenario.name}: {scenario.about} (about {scenario.minutes:g} min)")
        begun = time.monotonic()
        sheets = measure(scenario, systems, random.Random(seed), brief)
        result = result_of(scenario, sheets, versions, machine(), datetime.datetime.now(datetime.UTC), brief)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
        say(f"=== {scenario.name}: done in {time.monotonic() - begun:.0f} s\n\n{table([result])}")
    write_report(out)


def write_report(out: Path) -> None:
    """Table and plot of everything measured so far."""
    results = read_results(out, [scenario.name for scenario in SCENARIOS])
    (out / "table.md").write_text(f"{table(results)}\n{comparisons(results)}")
    (out / "detection.svg").write_text(detection_plot(results))
    say(f"{out}/table.md, {out}/detection.svg, and the raw figures beside them")


if __name__ == "__main__":
    main()
