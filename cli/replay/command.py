"""``rumormill replay``: plays records again, as a check and as a story."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from rumormill.cli.durations import utc_stamp
from rumormill.cli.exit_codes import EPILOG, NONE_FOUND, BadRequest
from rumormill.cli.output_file import write_output
from rumormill.cli.replay.about_member import explanations, story_of
from rumormill.cli.replay.page import incident_page
from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.recording.incident import Incident, PlayedSegment, play_segment
from rumormill.recording.player import PlayOutcome
from rumormill.recording.reader import FlightRecord, RecordedSegment, UnreadableRecord, read_record_untrusted
from rumormill.recording.snapshot import UnreadableSnapshot
from rumormill.simulations.record_judge import RecordJudge, Violation

TUNABLE = ("grace", "misses")
"""Settings of the protocol that --what-if may change."""


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


class ReplayDocument(msgspec.Struct, frozen=True):
    """What ``-o json`` prints."""

    segments: list[PlayedRow]
    violations: list[Violation]


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--until", type=float, metavar="SECONDS", help="Stop this many seconds after the record's beginning.")
@click.option("--explain", metavar="MEMBER", help="Show only what concerns this member.")
@click.option(
    "--what-if",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"Play with another setting ({', '.join(TUNABLE)}), times in seconds, and show what would have differed.",
)
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page with a sequence picture of each member that was doubted.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="text, or one JSON document.")
def replay(
    files: tuple[Path, ...],
    until: float | None,
    explain: str | None,
    changes: tuple[str, ...],
    page: Path | None,
    output: str,
) -> None:
    """Play records of one incident again, and show what each member concluded.

    The same code gets the same datagrams at the same times. Each conclusion, and a checksum of every datagram that
    left, is compared with the record. Records of several members stand on one time line: the datagrams that they
    exchanged align their clocks. The invariants of the lab judge what was recorded.

    \b
    rumormill replay w1-20261130T145002Z.rumor
    rumormill replay w1.rumor w2.rumor w3.rumor --explain w3
    rumormill replay w1.rumor w2.rumor w3.rumor --html incident.html
    rumormill replay w1.rumor --what-if grace=0.05
    """
    wanted = dict(_setting(change) for change in changes)
    played = [
        _play(path, record, segment, until, wanted) for path, record in _read(files) for segment in record.segments
    ]
    incident = Incident(played)
    violations = [] if wanted else RecordJudge(incident, POLICY_SCHEMA).violations()
    verdicts = [_summary(incident, each, what_if=bool(wanted)) for each in played]
    if output == "json":
        click.echo(msgspec.json.encode(ReplayDocument([_row(incident, each) for each in played], violations)))
    else:
        _show(incident, explain, verdicts, violations)
    if page is not None:
        write_output(page, incident_page(incident, verdicts, violations, explain).encode())
        click.echo(f"The page is in {page}.", err=True)
    if not wanted and (violations or any(each.outcome.difference for each in played)):
        raise click.exceptions.Exit(NONE_FOUND)


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


def _read(files: tuple[Path, ...]) -> Iterator[tuple[Path, FlightRecord]]:
    for path in files:
        try:
            with path.open("rb") as file:
                record = read_record_untrusted(file)
        except (UnreadableRecord, OSError) as error:
            raise BadRequest(f"{path}: {error}", "give a file that `rumormill record dump` wrote") from None
        if record.torn:
            click.echo(f"{path}: {record.torn}; the rest is played", err=True)
        yield path, record


def _play(
    path: Path, record: FlightRecord, segment: RecordedSegment, until: float | None, wanted: dict[str, float]
) -> PlayedSegment:
    end = None if until is None else segment.now + until
    try:
        return play_segment(record, segment, POLICY_SCHEMA, until=end, settings=wanted)
    except UnreadableSnapshot as error:
        raise BadRequest(f"{path}: {error}", "play it with the version of rumormill that wrote it") from None


def _row(incident: Incident, played: PlayedSegment) -> PlayedRow:
    record, segment, outcome = played.record, played.segment, played.outcome
    offset = incident.offset_of(played)
    return PlayedRow(
        member=record.header.name,
        began=utc_stamp(segment.now + offset),
        seconds=round(outcome.at - segment.now, 3),
        entries=outcome.entries,
        sent=outcome.sent,
        trace=outcome.trace,
        same=not outcome.difference,
        difference=outcome.difference,
        cut=outcome.cut,
        events=[
            {"at": utc_stamp(e.at + offset), "kind": e.kind, "member": e.member, "text": e.text} for e in outcome.events
        ],
    )


def _show(incident: Incident, explain: str | None, verdicts: Sequence[str], violations: Sequence[Violation]) -> None:
    conclusions = [c for c in incident.conclusions() if explain is None or explain in (c.event.member, c.observer)]
    for conclusion in conclusions:
        click.echo(f"{utc_stamp(conclusion.at)}  {conclusion.observer:<12}  {conclusion.event.text}")
    story = story_of(incident, explain) if explain else None
    for paragraph in ([""] if conclusions else [], [*explanations(story), ""] if story else [], verdicts):
        for line in paragraph:
            click.echo(line)
    for violation in violations:
        click.echo(f"VIOLATED at {utc_stamp(violation.at)}: {violation.invariant}: {violation.text}")


def _summary(incident: Incident, played: PlayedSegment, *, what_if: bool) -> str:
    """One segment, and what playing it showed."""
    header, segment, outcome = played.record.header, played.segment, played.outcome
    began, seconds = utc_stamp(segment.now + incident.offset_of(played)), outcome.at - segment.now
    return (
        f"{header.name}: {seconds:.1f} s from {began}, {outcome.entries} entries, {outcome.sent} datagrams sent, "
        f"{len(outcome.events)} conclusions: {_verdict(outcome, what_if=what_if)}"
    )


def _verdict(outcome: PlayOutcome, *, what_if: bool) -> str:
    if what_if:
        return _compared(outcome)
    if outcome.difference:
        return f"DIFFERS: {outcome.difference}"
    ended = f" (the segment ends because {outcome.cut})" if outcome.cut else ""
    return f"the same, trace {outcome.trace}{ended}"


def _compared(outcome: PlayOutcome) -> str:
    """What other settings would have changed, by the texts of the conclusions."""
    then, now = ({(e.kind, e.member) for e in events} for events in (outcome.recorded, outcome.events))
    lost = [f"no longer {kind}: {member}" for kind, member in sorted(then - now)]
    new = [f"now {kind}: {member}" for kind, member in sorted(now - then)]
    return "; ".join([*lost, *new]) or "the same conclusions"
