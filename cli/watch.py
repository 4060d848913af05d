"""``rumormill watch``: shows each change of the workers as the sidecar reports it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import click

from rumormill.cli.exit_codes import EPILOG, Unreachable
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import WORKER_COLUMNS, service_option, write_json
from rumormill.cli.tables import show_line, show_table
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.worker import Worker


@click.command(epilog=EPILOG)
@service_option
@sidecar_options
@output_option
def watch(sidecar: SidecarClient, service: str | None, output: str) -> None:
    """Show the workers, then each change as it happens, until Ctrl-C. Exits with code 3 if the sidecar goes away.

    With -o json it prints one line of JSON for the current state and for each change, as `rumormill workers` does.

    \b
      rumormill watch --service embed
      rumormill watch -o json | jq --unbuffered '[.workers[] | select(.readiness=="passing") | .name]'
    """
    try:
        with sidecar.stream("/v1/watch", {"service": service} if service else {}) as lines:
            if output == "json":
                for data in _data_of(lines):
                    write_json(data)
            else:
                _show_changes(sidecar.read(data, WorkersAnswer) for data in _data_of(lines))
    except KeyboardInterrupt:
        return
    raise Unreachable(f"the sidecar at {sidecar.url} has ended the stream", "watch another sidecar with --http")


def _data_of(lines: Iterable[str]) -> Iterator[str]:
    """The data of server-sent events. This endpoint sends each on one line."""
    for line in lines:
        if line.startswith("data:"):
            yield line.removeprefix("data:").strip()


def _show_changes(answers: Iterator[WorkersAnswer]) -> None:
    before: WorkersAnswer | None = None
    for answer in answers:
        if before is None:
            show_table(WORKER_COLUMNS, answer.workers, "There are no workers.")
        else:
            for sentence in changes(before, answer):
                show_line(f"{time.strftime('%H:%M:%S')}  {sentence}")
        before = answer


def changes(before: WorkersAnswer, after: WorkersAnswer) -> list[str]:
    """One sentence for each difference."""
    old, new = _by_name(before), _by_name(after)
    sentences = [f"{name} is new: {_state(worker)}, {worker.url}" for name, worker in new.items() if name not in old]
    sentences += [f"{name} is gone" for name in old if name not in new]
    for name, worker in new.items():
        if name in old and (said := _difference(old[name], worker)):
            sentences.append(f"{name}: {said}")
    if before.isolated != after.isolated:
        sentences.append("this sidecar is isolated" if after.isolated else "this sidecar is no longer isolated")
    return sentences


def _by_name(answer: WorkersAnswer) -> dict[str, Worker]:
    return {worker.name: worker for worker in answer.workers}


def _state(worker: Worker) -> str:
    return f"{worker.liveness}, {worker.readiness}"


def _difference(old: Worker, new: Worker) -> str:
    parts = [f"{_state(old)} → {_state(new)}"] if _state(old) != _state(new) else []
    if old.generation != new.generation:
        parts.append(f"restarted (generation {new.generation})")
    parts += [
        f"{field} {getattr(old, field) or 'none'} → {getattr(new, field) or 'none'}"
        for field in ("url", "zone", "release", "weight", "tags")
        if getattr(old, field) != getattr(new, field)
    ]
    return "; ".join(parts)
