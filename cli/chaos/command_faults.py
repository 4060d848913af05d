"""Faults on a pool that runs already: for each kind, the user's own command, and one that undoes it.

    [commands.kill]
    do   = "ssh {host} sudo systemctl kill --signal=KILL rumormill@{name}"
    undo = "ssh {host} sudo systemctl start rumormill@{name}"

A name and a host come from the pool, that is from a network. They go into single words, and no shell reads them.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio

from rumormill.cli.chaos.journal import Journal, RunCommand, run_command
from rumormill.cli.chaos.schedule import HINT, FaultCommand, FaultKind, FaultSpec
from rumormill.cli.demo.processes import fill_in
from rumormill.cli.exit_codes import BadRequest, CliError


class FaultFailed(CliError):
    """`chaos run` could not cause a fault. It has undone all earlier ones."""


class CommandFaults:
    """What the user's commands can do to these members, given as names and URLs of workers."""

    def __init__(
        self, workers: Mapping[str, str], commands: Mapping[FaultKind, FaultCommand], journal: Journal
    ) -> None:
        self._workers = dict(workers)
        self._commands = commands
        self._journal = journal

    @property
    def members(self) -> list[str]:
        return list(self._workers)

    def prepare(self, specs: Iterable[FaultSpec]) -> None:
        """Raises :class:`BadRequest` for a fault without commands."""
        for spec in specs:
            if spec.kind not in self._commands:
                raise BadRequest(f"the schedule has no [commands.{spec.kind}]", f"a pool of others needs one: {HINT}")
            for text in (self._commands[spec.kind].do, self._commands[spec.kind].undo):
                self._argv(text, "name", "host")

    @asynccontextmanager
    async def inject(self, spec: FaultSpec, member: str) -> AsyncIterator[None]:
        """Runs the first command at the start of the block, and the second at its end."""
        host = urlsplit(self._workers[member]).hostname or ""
        command = self._commands[spec.kind]
        async with self._journal.undone_after(RunCommand(tuple(self._argv(command.undo, member, host)))):
            argv = self._argv(command.do, member, host)
            if trouble := await trio.to_thread.run_sync(run_command, argv):
                raise FaultFailed(f"{' '.join(argv)}: {trouble}", "run it by hand")
            yield

    def _argv(self, text: str, name: str, host: str) -> list[str]:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise BadRequest(f"the command {text!r} cannot be split into words: {error}", HINT) from None
        if not words:
            raise BadRequest("a command is empty", HINT)
        if name.startswith("-") or host.startswith("-"):
            raise BadRequest(f"the member {name!r} would be read as an option", "give it another name")
        return [fill_in(word, {"{name}": name, "{host}": host}) for word in words]
