"""``rumormill replay``: plays records again, as a check and as a story."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from rumormill.cli.exit_codes import EPILOG, NONE_FOUND, BadRequest
from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.membership.view import Event
from rumormill.recording.player import Outcome, Player
from rumormill.recording.reader import Record, RecordedSegment, UnreadableRecord, read_record_untrusted
from rumormill.recording.snapshot import UnreadableSnapshot

TUNABLE = ("grace", "misses")
"""Settings of the protocol that --what-if may change."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """One event of one member, on the common time line."""

    at: float
    """Seconds since 1970, by the member's wall clock when its record began."""
    observer: str
    event: Event


class PlayedRow(msgspec.Struct, frozen=True):
    """What playing one segment showed, for ``-o json``."""

    member: str
    began: str
    seconds: float
    entries: int
    sent: int
    trace: str
    same: bool
    difference: str
    cut: str
    events: list[dict[str, str]]


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--until", type=float, metavar="SECONDS", help="Stop so many seconds after the record's beginning.")
@click.option("--explain", metavar="MEMBER", help="Show only what concerns this member.")
@click.option(
    "--what-if",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"Play with another setting ({', '.join(TUNABLE)}), times in seconds, and show what would have differed.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="text, or one JSON document.")
def replay(
    files: tuple[Path, ...], until: float | None, explain: str | None, changes: tuple[str, ...], output: str
) -> None:
    """Play records of one incident again, and show what each member concluded.

    The same code gets the same datagrams at the same times. Each conclusion, and a checksum of every datagram that
    left, is compared with the record. Records of several members are shown on one time line; their clocks may differ.

    \b
    rumormill replay w1-20261130T145002Z.rumor
    rumormill replay w1.rumor w2.rumor w3.rumor --explain w3
    rumormill replay w1.rumor --what-if grace=0.05
    """
    wanted = dict(_setting(change) for change in changes)
    played = [
        (record, segment, _play(path, segment, until, wanted))
        for path, record in _read(files)
        for segment in record.segments
    ]
    if output == "json":
        click.echo(msgspec.json.encode([_row(*each) for each in played]))
    else:
        _show(played, explain, what_if=bool(wanted))
    if not wanted and any(outcome.difference for _, _, outcome in played):
        raise click.exceptions.Exit(NONE_FOUND)


Played = tuple[Record, RecordedSegment, Outcome]


def _setting(change: str) -> tuple[str, float]:
    name, _, value = change.partition("=")
    try:
        if name not in TUNABLE:
            raise ValueError
        return name, float(value)
    except ValueError:
        raise BadRequest(
            f"{change!r} is no change of a setting", f"give NAME=NUMBER; NAME is one of {', '.join(TUNABLE)}"
        ) from None


def _read(files: tuple[Path, ...]) -> Iterator[tuple[Path, Record]]:
    for path in files:
        try:
            with path.open("rb") as file:
                record = read_record_untrusted(file)
        except (UnreadableRecord, OSError) as error:
            raise BadRequest(f"{path}: {error}", "give a file that `rumormill record dump` wrote") from None
        if record.torn:
            click.echo(f"{path}: {record.torn}; the rest is played", err=True)
        yield path, record


def _play(path: Path, segment: RecordedSegment, until: float | None, wanted: dict[str, float]) -> Outcome:
    try:
        player = Player(segment, POLICY_SCHEMA, wanted)
    except UnreadableSnapshot as error:
        raise BadRequest(f"{path}: {error}", "play it with the version of rumormill that wrote it") from None
    return player.run(None if until is None else segment.now + until)


def _row(record: Record, segment: RecordedSegment, outcome: Outcome) -> PlayedRow:
    offset = record.header.wall_offset
    return PlayedRow(
        member=record.header.name,
        began=_stamp(segment.now + offset),
        seconds=round(outcome.at - segment.now, 3),
        entries=outcome.entries,
        sent=outcome.sent,
        trace=outcome.trace,
        same=not outcome.difference,
        difference=outcome.difference,
        cut=outcome.cut,
        events=[
            {"at": _stamp(e.at + offset), "kind": e.kind, "member": e.member, "text": e.text} for e in outcome.events
        ],
    )


def _show(played: list[Played], explain: str | None, *, what_if: bool) -> None:
    conclusions = sorted(
        (
            Conclusion(event.at + record.header.wall_offset, record.header.name, event)
            for record, _, outcome in played
            for event in outcome.events
            if explain is None or explain in (event.member, record.header.name)
        ),
        key=lambda conclusion: conclusion.at,
    )
    for conclusion in conclusions:
        click.echo(f"{_stamp(conclusion.at)}  {conclusion.observer:<12}  {conclusion.event.text}")
    if conclusions:
        click.echo()
    for record, segment, outcome in played:
        began = _stamp(segment.now + record.header.wall_offset)
        seconds = outcome.at - segment.now
        click.echo(
            f"{record.header.name}: {seconds:.1f} s from {began}, {outcome.entries} entries, "
            f"{outcome.sent} datagrams sent, {len(outcome.events)} conclusions: {_verdict(outcome, what_if=what_if)}"
        )


def _verdict(outcome: Outcome, *, what_if: bool) -> str:
    if what_if:
        return _compared(outcome)
    if outcome.difference:
        return f"DIFFERS: {outcome.difference}"
    ended = f" (the segment ends because {outcome.cut})" if outcome.cut else ""
    return f"the same, trace {outcome.trace}{ended}"


def _compared(outcome: Outcome) -> str:
    """What other settings would have changed, by the texts of the conclusions."""
    then, now = ({(e.kind, e.member) for e in events} for events in (outcome.recorded, outcome.events))
    lost = [f"no longer {kind}: {member}" for kind, member in sorted(then - now)]
    new = [f"now {kind}: {member}" for kind, member in sorted(now - then)]
    return "; ".join([*lost, *new]) or "the same conclusions"


def _stamp(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
