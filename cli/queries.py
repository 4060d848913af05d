"""The verbs that read: members, workers, lookup, events, status."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

import click
import msgspec

from rumormill.cli.exit_codes import EPILOG, NONE_FOUND, BadRequest
from rumormill.cli.explain import nobody_owns, show_explanation
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.member_argument import member_argument
from rumormill.cli.tables import Column, seconds, show_line, show_pairs, show_table
from rumormill.discovery.commands import Status
from rumormill.discovery.schema.answers import (
    EventRow,
    EventsAnswer,
    LookupAnswer,
    MemberRow,
    MembersAnswer,
    describe_shared_worker,
)
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.membership.record import USUAL_PERIOD, WIRE_VERSION
from rumormill.membership.view import ConnectivityWord
from rumormill.ring.worker import Worker

FOLLOW_WAIT = "5s"
"""How long the sidecar may hold a request for newer events. Less than the time-out of a request."""
STALE_VIEW_NOTE = "It shows the other members as it last knew them. Ask another sidecar with --http."

WORKER_COLUMNS: tuple[Column[Worker], ...] = (
    Column("NAME", lambda w: w.name),
    Column("LIVENESS", lambda w: w.liveness),
    Column("READINESS", lambda w: w.readiness),
    Column("SERVICE", lambda w: w.service),
    Column("RELEASE", lambda w: w.release),
    Column("ZONE", lambda w: w.zone),
    Column("WEIGHT", lambda w: f"{w.weight:g}", right=True),
    Column("LOAD", lambda w: "" if w.utilization is None else f"{w.utilization:.0%}", right=True),
    Column("QUEUE", lambda w: str(w.queue) if w.queue else "", right=True),
    Column("URL", lambda w: w.url),
    Column("TAGS", lambda w: tags(w.tags)),
    Column("PROBATION UNTIL", lambda w: clock(w.probation_until)),
    Column("SINCE", lambda w: clock(w.since)),
)

MEMBER_COLUMNS: tuple[Column[MemberRow], ...] = (
    Column("NAME", lambda m: f"{m.name} (pending)" if m.pending else m.name),
    Column("LIVENESS", lambda m: m.liveness),
    Column("READINESS", lambda m: m.readiness),
    Column("PROBATION", lambda m: "" if m.probation is None else f"{m.probation:.0f} s more", right=True),
    Column("NO NEW WORK", lambda m: m.unready),
    Column("SERVICE", lambda m: m.service),
    Column("RELEASE", lambda m: m.release),
    Column("ZONE", lambda m: m.zone),
    Column("GEN", lambda m: str(m.generation), right=True),
    Column("HEARD", lambda m: seconds(m.last_heard), right=True),
    Column("RTT", lambda m: "" if m.rtt is None else f"{m.rtt * 1000:.1f} ms", right=True),
    Column("MISSES", lambda m: str(m.misses) if m.misses else "", right=True),
    Column("WIRE", lambda m: "" if m.wire == WIRE_VERSION else str(m.wire), right=True),
    Column("PERIOD", lambda m: "" if m.period == USUAL_PERIOD / 1000 else f"{m.period:g} s", right=True),
    Column("ADDRESS", lambda m: m.address),
    Column("WHY", lambda m: m.why),
)

EVENT_COLUMNS: tuple[Column[EventRow], ...] = (
    Column("#", lambda e: str(e.index), right=True),
    Column("AT", lambda e: e.at),
    Column("KIND", lambda e: e.kind),
    Column("STATE", lambda e: event_states(e)),
    Column("WHAT HAPPENED", lambda e: e.text),
)


def tags(given: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in given.items())


def clock(stamp: str) -> str:
    """The time of day of an RFC 3339 timestamp. ``-o json`` has the date too."""
    return stamp.partition("T")[2].removesuffix("Z") or stamp


def write_json(body: bytes | str) -> None:
    """Print a sidecar's JSON unchanged, on one line."""
    click.echo(body.decode() if isinstance(body, bytes) else body)


service_option = click.option("--service", metavar="NAME", help="Only this service; default: all services.")


@click.command(epilog=EPILOG)
@sidecar_options
@output_option
def members(sidecar: SidecarClient, output: str) -> None:
    """Show every member this sidecar knows, including dead members and those that left, with reasons.

    \b
      rumormill members
      rumormill members -o json | jq '.members[] | select(.liveness=="dead") | .name'
    """
    answer, body = sidecar.get("/v1/members", {}, MembersAnswer)
    if output == "json":
        write_json(body)
        return
    show_table(MEMBER_COLUMNS, answer.members, "No member is known yet.")
    for (_, url), names in shared_workers(answer.members).items():
        show_line(describe_shared_worker(names, url), "yellow")
    if answer.isolated:
        show_line(f"{_connectivity_text(answer.connectivity, answer.connectivity_why)}. {STALE_VIEW_NOTE}", "yellow")


def shared_workers(members: Iterable[MemberRow]) -> dict[tuple[str, str], list[str]]:
    """The names of present members that share a worker, by service and URL."""
    named: dict[tuple[str, str], list[str]] = {}
    for member in members:
        if member.liveness in ("alive", "suspect") and not member.pending:
            named.setdefault((member.service, member.url), []).append(member.name)
    return {where: sorted(names) for where, names in named.items() if len(names) > 1}


@click.command(epilog=EPILOG)
@service_option
@click.option("--ready", is_flag=True, help="Only workers that take new work now.")
@sidecar_options
@output_option
def workers(sidecar: SidecarClient, service: str | None, ready: bool, output: str) -> None:
    """Show the workers that are alive or suspect. Exits with code 1 if there are none.

    \b
      rumormill workers --service embed --ready
      until rumormill workers --service embed --ready > /dev/null; do sleep 1; done
    """
    params = {"service": service, "ready": "true" if ready else None}
    answer, body = sidecar.get("/v1/workers", params, WorkersAnswer)
    if output == "json":
        write_json(body)
    else:
        show_table(
            WORKER_COLUMNS, answer.workers, "There are no workers." if not ready else "No worker takes new work."
        )
        if answer.isolated:
            show_line(f"This sidecar is isolated. {STALE_VIEW_NOTE}", "yellow")
    if not answer.workers:
        sys.exit(NONE_FOUND)


@click.command(epilog=EPILOG)
@click.argument("key")
@service_option
@click.option("-n", "count", type=click.IntRange(1, 128), default=3, show_default=True, help="Number of owners.")
@click.option(
    "--explain", "explained", is_flag=True, help="Show why: canary split, ring position, zone, and each worker in turn."
)
@click.option("--zone", metavar="ZONE", help="With --explain: explain it for a caller in this zone.")
@sidecar_options
@output_option
def lookup(
    sidecar: SidecarClient, key: str, service: str | None, count: int, explained: bool, zone: str | None, output: str
) -> None:
    """Show which workers own KEY, in order of preference. Exits with code 1 if none does.

    Sidecars and clients with equal routing digests have equal owners for every key. Callers try suspect workers last.

    \b
      rumormill lookup user-42 --service embed
      rumormill lookup user-42 --service embed -n 1 -o json | jq -r '.owners[0].url'
      rumormill lookup user-42 --explain
    """
    if explained:
        show_explanation(sidecar, key, service, zone, count, output)
        return
    if zone is not None:
        raise BadRequest(
            "--zone needs --explain: the owners are the same in every zone", "add --explain, or remove --zone"
        )
    answer, body = sidecar.get("/v1/lookup", {"service": service, "key": key, "n": count}, LookupAnswer)
    if output == "json":
        write_json(body)
    else:
        show_table(WORKER_COLUMNS[:-1], answer.owners, nobody_owns(key, service))
        for name, why in answer.unroutable.items():
            show_line(f"not {name}: {why}", "yellow")
        show_line(f"routing digest {answer.routing_digest}", "dim")
    if not answer.owners:
        sys.exit(NONE_FOUND)


@click.command(epilog=EPILOG)
@click.option("--since", type=click.IntRange(min=0), default=0, metavar="N", help="Only events after number N.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each event as it happens, until Ctrl-C.")
@sidecar_options
@output_option
def events(sidecar: SidecarClient, since: int, follow: bool, output: str) -> None:
    """Show what happened in the pool, and why, as this sidecar saw it; newest last.

    With --follow and -o json it prints one line of JSON for each event. It exits with code 3 if the sidecar goes away.

    \b
      rumormill events
      rumormill events -o json | jq -r '.events[] | select(.kind=="evicted") | .text'
      rumormill events --follow -o json | jq --unbuffered -r 'select(.new) | [.member, .old, .new, .reason]'
    """
    if follow:
        with suppress(KeyboardInterrupt):
            _follow_events(sidecar, since, output)
        return
    answer, body = sidecar.get("/v1/events", {"since": since}, EventsAnswer)
    if output == "json":
        write_json(body)
        return
    show_table(EVENT_COLUMNS, answer.events, "There are no newer events." if since else "There are no events yet.")


def _follow_events(sidecar: SidecarClient, since: int, output: str) -> None:
    """Ask again and again. After a restart of the sidecar, its new events are shown from the first."""
    process: str | None = None
    while True:
        params = {"since": since, "process": process, "wait": FOLLOW_WAIT}
        answer, _ = sidecar.get("/v1/events", params, EventsAnswer)
        for event in answer.events:
            if output == "json":
                write_json(msgspec.json.encode(event))
            else:
                show_line(f"{event.at}  {event.kind:9}  {event.text}{_in_brackets(event)}")
        since, process = answer.index, answer.process


def _in_brackets(event: EventRow) -> str:
    return f" ({event_states(event)})" if event.new else ""


def event_states(event: EventRow) -> str:
    """The member's state before and after; empty if it has not changed."""
    return f"{event.old or 'unknown'} → {event.new}" if event.new else ""


@click.command(epilog=EPILOG)
@sidecar_options
@member_argument
@output_option
def status(sidecar: SidecarClient, output: str) -> None:
    """Show the state, the counters and the current settings of this sidecar, or of MEMBER's.

    \b
      rumormill status
      rumormill status w3
      rumormill status -o json | jq .table_digest      # equal if two members know the same
    """
    answer, body = sidecar.get("/v1/status", {}, Status)
    if output == "json":
        write_json(body)
        return
    show_pairs(_status_pairs(answer))
    show_pairs(
        ((name, _format_value(value)) for name, value in answer.settings.items() if value not in (None, "", [])),
        "Settings",
    )
    show_pairs(((name, str(count)) for name, count in sorted(answer.counters.items()) if count), "Counters")


def _status_pairs(status: Status) -> list[tuple[str, str]]:
    sealed = f"{status.seal}, {status.keys} key(s)" if status.keys else f"{status.seal}: anyone can read and forge"
    return [
        ("name", status.name),
        ("cluster", status.cluster),
        ("service", status.service),
        ("readiness", status.readiness),
        *([("no new work", status.unready)] if status.unready else []),
        *([("load", _load(status))] if status.utilization is not None else []),
        ("gossip", status.gossip),
        ("pool", _pool_summary(status)),
        ("seal", sealed),
        *([("seal trouble", status.seal_trouble)] if status.seal_trouble else []),
        *([("settings trouble", status.settings_trouble)] if status.settings_trouble else []),
        *([("worker process", status.worker_process)] if status.worker_process else []),
        *_certificate_pairs(status),
        *([("worker shared with", ", ".join(status.shares_worker_with))] if status.shares_worker_with else []),
        *([("period trouble", status.period_trouble)] if status.period_trouble else []),
        ("generation", str(status.generation)),
        ("instance", status.instance),
        ("table digest", status.table_digest),
        ("process", status.process),
        ("loop lag", seconds(status.loop_lag)),
    ]


def _load(status: Status) -> str:
    return f"{status.utilization:.0%} busy, {status.queue} waiting, read {seconds(status.load_age)} ago"


def _certificate_pairs(status: Status) -> list[tuple[str, str]]:
    if status.certificate_not_after is None:
        return []
    trouble = [("certificate trouble", status.certificate_trouble)] if status.certificate_trouble else []
    return [("certificate ends", datetime.fromtimestamp(status.certificate_not_after, UTC).isoformat()), *trouble]


def _pool_summary(status: Status) -> str:
    if status.stopped:
        return f"stopped: {status.stopped}"
    others = f"{status.peers} other member(s)"
    if status.suspects:
        others += f", {status.suspects} suspect"
    if status.isolated:
        return f"{_connectivity_text(status.connectivity, status.connectivity_why)}; {others} last known"
    return others if status.joined else "no other member yet"


def _connectivity_text(connectivity: ConnectivityWord, why: str) -> str:
    """How a sidecar is cut off. A sidecar of an earlier version says only that it is isolated."""
    return f"{connectivity}: {why}" if why else "isolated"


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)
