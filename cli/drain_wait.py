"""Waits until a worker has finished what it had, and shows how far it is."""

from __future__ import annotations

import sys
import time
from typing import Final

import click
import msgspec

from rumormill.cli.exit_codes import NOT_DRAINED
from rumormill.cli.http_client import SidecarClient
from rumormill.cli.queries import write_json
from rumormill.cli.tables import seconds, show_line
from rumormill.discovery.schema.load import DrainState

LOOK_AGAIN: Final = 0.1
"""Seconds between two questions."""
COUNTED_BY: Final = {"engine": "by its engine", "clients": "by its callers"}


def wait_drained(sidecar: SidecarClient, deadline: float, output: str) -> None:
    """Return when the sidecar's worker is drained. Exits with code 9 after `deadline` seconds."""
    began = time.monotonic()
    progress = _Progress()
    while True:
        state, _ = sidecar.get("/v1/drain", {}, DrainState)
        took = time.monotonic() - began
        if state.drained or not state.draining or took >= deadline:
            break
        progress.show(state, took)
        time.sleep(min(LOOK_AGAIN, deadline - took))
    progress.clear()
    if output == "json":
        write_json(msgspec.json.encode(state))
    elif state.drained:
        show_line(f"Drained after {seconds(took)}{_counted(state)}.")
    elif not state.draining:
        show_line("It drains no longer: somebody has ended that.", "yellow")
    else:
        show_line(f"Not drained within {seconds(deadline)}: {_left(state)}. It goes on draining.", "yellow")
    if not state.drained:
        sys.exit(NOT_DRAINED)


def _left(state: DrainState) -> str:
    if state.under_way is None:
        return f"nobody counts its requests, and it has {seconds(state.time_left)} left"
    return f"{state.under_way} request(s) under way, counted {COUNTED_BY.get(state.source, state.source)}"


def _counted(state: DrainState) -> str:
    return f", counted {COUNTED_BY[state.source]}" if state.source in COUNTED_BY else ", which is the time set"


class _Progress:
    """One line on a terminal that is written again and again; nothing if stderr is none."""

    def __init__(self) -> None:
        self._on = sys.stderr is not None and sys.stderr.isatty()
        self._length = 0

    def show(self, state: DrainState, took: float) -> None:
        if self._on:
            line = f"draining for {seconds(took)}: {_left(state)}"
            click.echo("\r" + line.ljust(self._length), nl=False, err=True)
            self._length = len(line)

    def clear(self) -> None:
        if self._on and self._length:
            click.echo("\r" + " " * self._length + "\r", nl=False, err=True)
