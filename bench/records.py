"""Whether the records of a real pool replay: loss, a freeze, a member that is killed (ten minutes, as root).

Eight sidecars on hosts of their own (network namespaces), behind real packet loss. After a third of the time one is
frozen for five seconds, at the end another is killed by SIGKILL. Every survivor's record is dumped, and of the killed
one there is its live file, whose last bytes are cut off as a kill in the middle of a write would leave it. ``rumormill
replay`` plays each, under this Python and under each that is named: what left and what was concluded must be the same
as in the record.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from bench.netns_testbed import unavailable_reason
from bench.peers.pool import PeerMember, PeerPool
from bench.peers.rumormill import Rumormill
from bench.peers.systems import Conditions, run
from bench.peers.testbed import Measurements, PeerTestbed
from rumormill.cli.replay.command import ReplayDocument

PROGRAM = ("-c", "from rumormill.cli.main import main; main()")
FREEZE_SECONDS = 5.0
TORN_BYTES = 3


@dataclass(frozen=True, slots=True)
class Played:
    """What playing one member's record under one Python showed."""

    member: str
    python: str
    seconds: float
    entries: int
    sent: int
    conclusions: int
    differences: tuple[str, ...]
    violations: int
    traces: tuple[str, ...]
    """One for each segment."""
    said: str
    """What replay said of the file's end."""


def record_pool(folder: Path, size: int, seconds: float, loss: float) -> list[Path]:
    """Run a pool, and return the files of its records, in the order of the members."""
    system = Rumormill()
    system.prepare()
    conditions = Conditions(flags={system.name: ("--record-dir", str(folder))})
    measurements = {system.name: Measurements()}
    with PeerTestbed([system], size, conditions, random.Random(1), click.echo, measurements) as testbed:
        pool = testbed.pools[0]
        testbed.bed.lose(loss)
        time.sleep(seconds / 3)
        frozen = pool.members[1]
        pool.signal(frozen, signal.SIGSTOP)
        time.sleep(FREEZE_SECONDS)
        pool.signal(frozen, signal.SIGCONT)
        time.sleep(2 / 3 * seconds - FREEZE_SECONDS)
        killed = pool.members[2]
        live = folder / f"{killed.name}.live.rumor"
        pool.kill(killed)
        live.write_bytes(live.read_bytes()[:-TORN_BYTES])
        return [live, *(dump(pool, member, folder) for member in pool.members)]


def dump(pool: PeerPool, member: PeerMember, folder: Path) -> Path:
    """Save a member's record by the verb, on its own host."""
    path = folder / f"{member.name}.rumor"
    words = ["record", "dump", "--http", "http://127.0.0.1:7380", "--out", str(path)]
    run(pool.bed.command(member.host, [sys.executable, *PROGRAM, *words]), f"the record of {member.name}")
    return path


def play(path: Path, python: str) -> Played:
    """Play one record in a process of its own."""
    done = subprocess.run([python, *PROGRAM, "replay", "-o", "json", str(path)], capture_output=True, check=False)
    if not done.stdout:
        raise click.ClickException(f"{python}: {path.name}: {done.stderr.decode()}")
    document = msgspec.json.decode(done.stdout, type=ReplayDocument)
    rows = document.segments
    return Played(
        rows[0].member,
        python,
        sum(row.seconds for row in rows),
        sum(row.entries for row in rows),
        sum(row.sent for row in rows),
        sum(len(row.events) for row in rows),
        tuple(row.difference for row in rows if not row.same),
        len(document.violations),
        tuple(row.trace for row in rows),
        done.stderr.decode().strip().replace(f"{path}: ", ""),
    )


def compare(files: list[Path], pythons: list[str]) -> int:
    """Print a row for each record, and return how many records do not replay everywhere to the same."""
    bad = 0
    click.echo("member     seconds  entries  datagrams  conclusions  the same under")
    for path in files:
        played = [play(path, python) for python in pythons]
        first = played[0]
        same = [each for each in played if not each.differences and not each.violations and each.traces == first.traces]
        bad += len(same) < len(played)
        click.echo(
            f"{first.member:<9}{first.seconds:>9.1f}{first.entries:>9}{first.sent:>11}{first.conclusions:>13}"
            f"  {len(same)} of {len(played)}{'  ' + first.said if first.said else ''}"
        )
        for each in played:
            for difference in each.differences:
                click.echo(f"    {each.python}: {difference}")
    return bad


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--size", default=8, show_default=True)
@click.option("--loss", default=0.1, show_default=True, help="Share of the packets that every host loses.")
@click.option("--python", "others", multiple=True, help="Another Python that has rumormill; repeat it.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder to keep the records in.")
def bench(minutes: float, size: int, loss: float, others: tuple[str, ...], keep: Path | None) -> None:
    """Record a pool under loss, a freeze and a kill, and replay every record."""
    if why := unavailable_reason():
        raise click.ClickException(why)
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        files = record_pool(folder.absolute(), size, 60 * minutes, loss)
        bad = compare(files, [sys.executable, *others])
    click.echo(f"{len(files) - bad} of {len(files)} records replay to the same datagrams and the same conclusions")
    sys.exit(1 if bad else 0)


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
