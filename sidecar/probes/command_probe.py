"""Runs a command of the operator's and looks at its exit code and what it prints.

When it has ended, or takes too long, whatever is left of its process group is killed. It gets the environment of the
agent without the agent's settings, and the worker's URL in RUMORMILL_WORKER.
"""

from __future__ import annotations

import os
import re
import shlex

import trio

from rumormill.sidecar.bounded_command import BoundedCommand
from rumormill.sidecar.probes.expectations import NotExpected, check_pattern, quoted
from rumormill.sidecar.probes.outcome import ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.specification import CommandSpec
from rumormill.sidecar.settings_values import WorkerUrl

MAX_OUTPUT_BYTES = 64 << 10
"""What it prints beyond that is read and dropped."""


class CommandProbe:
    """Runs the command once for each run."""

    def __init__(self, spec: CommandSpec, worker: WorkerUrl) -> None:
        self._spec = spec
        self._pattern = re.compile(spec.expect.pattern)
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("RUMORMILL_")}
        self._environment["RUMORMILL_WORKER"] = str(worker)
        self._stuck: BoundedCommand | None = None
        self.description = f"the command {shlex.join(spec.command)[:200]}"

    @property
    def expected(self) -> str:
        expect = self._spec.expect
        output = f", output that matches {expect.pattern!r}" if expect.pattern else ""
        return f"exit code {expect.exit_code}{output}; within {self._spec.budget}"

    async def run(self) -> ProbeOutcome:
        """Run the command once."""
        began = trio.current_time()
        verdict, reason = ProbeVerdict.TIMED_OUT, f"no end within {self._spec.give_up}; it was killed"
        with trio.move_on_after(self._spec.give_up):
            try:
                verdict, reason = ProbeVerdict.RIGHT, await self._judge()
            except NotExpected as error:
                verdict, reason = ProbeVerdict.WRONG, str(error)
            except OSError as error:
                verdict, reason = ProbeVerdict.TIMED_OUT, f"it cannot be started: {error.strerror or error}"
        seconds = trio.current_time() - began
        answer = reason if verdict.answered else ""
        if verdict is ProbeVerdict.RIGHT and seconds > self._spec.budget:
            verdict, reason = (
                ProbeVerdict.SLOW,
                f"right but after {seconds:.3g} s, over the {self._spec.budget} allowed",
            )
        return ProbeOutcome(verdict, f"command {self._spec.command[0]}: {reason}", seconds, answer)

    async def _judge(self) -> str:
        if self._stuck is not None and self._stuck.running:
            raise NotExpected("an earlier run was killed and still has not ended; it may hang in the kernel")
        self._stuck = command = BoundedCommand(self._spec.command, self._environment, MAX_OUTPUT_BYTES)
        output = await command.run()
        return self._judge_end(command.exit_code, output.decode("utf-8", "replace"))

    def _judge_end(self, exit_code: int | None, text: str) -> str:
        wanted = self._spec.expect.exit_code
        if exit_code != wanted:
            raise NotExpected(f"exit code {exit_code} and not {wanted}" + (f": {quoted(text)}" if text else ""))
        check_pattern(text, self._pattern)
        return f"exit code {exit_code}"
