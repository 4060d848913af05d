"""``python -m bench.peers`` runs every scenario without figures yet, ``python -m bench.peers NAME ...`` the named ones.

Each scenario writes its figures to its own file in --out when it is done, so that a stopped run can be resumed. Table
and plot are made from all files there.
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

from bench.netns_testbed import unavailable_reason
from bench.peers.kinship import Kinship
from bench.peers.memberlist import Memberlist
from bench.peers.plot import detection_plot
from bench.peers.report import comparisons, read_results, result_of, table
from bench.peers.rumormill import Rumormill
from bench.peers.scenarios import SCENARIOS, PeerScenario
from bench.peers.systems import System, Unavailable
from bench.peers.testbed import Measurements, PeerTestbed

SYSTEMS: dict[str, System] = {system.name: system for system in (Rumormill(), Memberlist(), Kinship())}


def say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}   {text}")


def prepared(wanted: list[str]) -> dict[str, str]:
    """The versions of the available systems. For the others, print why they are not available."""
    versions = {}
    for name in wanted:
        try:
            versions[name] = SYSTEMS[name].prepare()
        except Unavailable as error:
            say(f"{name} is not available: {error}")
        else:
            say(f"{name} {versions[name]}")
    return versions


def measure(scenario: PeerScenario, systems: list[System], rng: random.Random, brief: bool) -> dict[str, Measurements]:
    """Run a scenario, and return the measurements of each system."""
    parameters = {**scenario.parameters, **(scenario.brief if brief else {})}
    measurements = {system.name: Measurements() for system in systems}
    turns = [(number, [system]) for number in range(scenario.rounds) for system in systems] or [(0, systems)]
    for number, present in turns:
        nth = (number, max(1, scenario.rounds))
        testbed = PeerTestbed(present, scenario.size, scenario.conditions, rng, say, measurements, nth=nth)
        with testbed if scenario.bed else nullcontext():
            scenario.measure(testbed, **parameters)
    return measurements


def machine() -> str:
    return f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "listed", is_flag=True, help="List the scenarios and their durations.")
@click.option("--brief", is_flag=True, help="Only a few kills and seconds of each: a smoke test, not a measurement.")
@click.option("--again", is_flag=True, help="Also run scenarios that have figures already.")
@click.option(
    "--system", "only", multiple=True, type=click.Choice(list(SYSTEMS)), help="Only this one; can be repeated."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench-peers"), show_default=True)
@click.option("--seed", default=1, show_default=True, help="Seed for victims and times.")
def main(
    names: tuple[str, ...], listed: bool, brief: bool, again: bool, only: tuple[str, ...], out: Path, seed: int
) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is cleaned up
    if listed:
        for scenario in SCENARIOS:
            click.echo(f"{scenario.name:18} {scenario.minutes:4.1f} min   {scenario.about}")
        click.echo(f"{'all':18} {sum(s.minutes for s in SCENARIOS):4.1f} min")
        return
    if unknown := set(names) - {scenario.name for scenario in SCENARIOS}:
        raise click.BadParameter(f"there is no scenario {sorted(unknown)[0]!r}; --list lists them")
    if (reason := unavailable_reason()) is not None:
        click.echo(f"error: no testbed can be made here: {reason}", err=True)
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
        measurements = measure(scenario, systems, random.Random(seed), brief)
        result = result_of(scenario, measurements, versions, machine(), datetime.datetime.now(datetime.UTC), brief)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
        say(f"=== {scenario.name}: done in {time.monotonic() - begun:.0f} s\n\n{table([result])}")
    write_report(out)


def write_report(out: Path) -> None:
    """Table and plot of everything measured so far."""
    results = read_results(out, [scenario.name for scenario in SCENARIOS])
    (out / "table.md").write_text(f"{table(results)}\n{comparisons(results)}")
    (out / "detection.svg").write_text(detection_plot(results))
    say(f"wrote {out}/table.md and {out}/detection.svg from the figures in {out}")


if __name__ == "__main__":
    main()
