"""A guided rollout: the share of a release goes up step by step while its gates hold, and to 0 when one fails.

The progress is part of the pool's policy and is written with each step, so this process may die at any moment. The
share then stays as it is, and the next `canary run`, on any machine, continues the rollout. Each write names the policy
version it was based on (compare and set), so it never overwrites a change by an operator or by another rollout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from rumormill.cli.exit_codes import BadRequest, Refused, Unreachable
from rumormill.cli.gates import (
    MetricSource,
    MetricSourceError,
    MetricUnavailable,
    RolloutGate,
    check_command_runs,
    run_command,
)
from rumormill.cli.http_client import SidecarClient
from rumormill.discovery.schema.policies import CanaryAnswer, RolloutRow

MIN_METRIC_WAIT = 60.0
"""Seconds to wait for a missing value after a step's hold time. The wait is as long as the hold time, but at least
this."""

RETRY_SECONDS = 1.0
"""Seconds between two attempts to reach a sidecar."""
MAX_WRITE_ATTEMPTS = 5
"""Attempts to write a step before a refusal counts. A sidecar that has just started refuses for a moment."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """The result of one check of all gates."""

    state: Literal["passed", "failed", "unknown"]
    text: str


class TakenOver(Exception):
    """This command no longer controls the rollout; the text says what ended it."""


class RolloutController:
    """Controls one rollout. ``report`` prints a line of progress. ``sleep`` and ``clock`` exist for tests."""

    def __init__(
        self,
        sidecar: SidecarClient,
        service: str,
        gates: Sequence[RolloutGate],
        source: MetricSource | None,
        *,
        every: float | None,
        report: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sidecar = sidecar
        self._service = service
        self._gates = gates
        self._source = source
        self._every = every
        self._report = report
        self._sleep = sleep
        self._clock = clock
        self._plan: tuple[object, ...] | None = None
        """The plan of our rollout. A rollout with another plan is not ours."""
        self._seen = 0
        """The newest policy index seen."""

    def start(self, rollout: RolloutRow, index: int) -> CanaryAnswer:
        """Check that every gate can be read, then write the first step.

        Raises :class:`BadRequest` if a gate cannot be read; nothing has changed then. Raises :class:`Refused` if the
        sidecar refuses the step.
        """
        for gate in self._gates:
            self._require_readable(gate, rollout.release)
        return self._write(msgspec.structs.replace(rollout, since=self._clock()), index)

    def run(self, answer: CanaryAnswer) -> RolloutRow:
        """Continue from the current policy until the rollout is done or has failed; returns its last state.

        Raises :class:`TakenOver`.
        """
        if answer.rollout is not None and self._plan is None:
            self._plan = _plan(answer.rollout)
        self._seen = max(self._seen, answer.index)
        while True:
            rollout = self._running_rollout(answer)
            passed, why = self._hold_step(rollout)
            if passed is None:
                answer = self._wait_for_policy()
                continue
            if not passed:
                failed = msgspec.structs.replace(rollout, state="failed", why=why[:200])
                return self._finish(failed, answer.index, 0.0)
            if rollout.position + 1 == len(rollout.steps):
                done = msgspec.structs.replace(rollout, state="done", why="")
                return self._finish(done, answer.index, rollout.steps[-1])
            following = msgspec.structs.replace(rollout, position=rollout.position + 1, since=self._clock())
            answer = self._write_step(following, answer.index)

    def _hold_step(self, rollout: RolloutRow) -> tuple[bool | None, str]:
        """Watch one step. True: the gates held for the hold time. False: a gate failed. None: the policy changed."""
        end = rollout.since + rollout.hold
        give_up = max(end, self._clock()) + max(rollout.hold, MIN_METRIC_WAIT)
        every = self._every or min(max(rollout.hold / 20, 1.0), 15.0)
        while True:
            result = self._check_gates(rollout)
            now = self._clock()
            self._report(self._progress(rollout, result, end - now))
            if result.state == "failed":
                return False, result.text
            if now >= end and result.state == "passed":
                return True, ""
            if now >= give_up:
                return False, f"no value for too long: {result.text}"
            self._sleep(min(every, max(end - now, 0.05)) if now < end else every)
            if self._policy_changed(rollout):
                return None, ""

    def _check_gates(self, rollout: RolloutRow) -> GateResult:
        """Check every gate. One failure decides. A missing value makes the result unknown."""
        found, missing = [], ""
        for gate in self._gates:
            try:
                passed, text = self._check_gate(gate, rollout)
            except MetricUnavailable as error:
                missing = missing or str(error)
                continue
            if not passed:
                return GateResult("failed", f"{gate.text}: {text}")
            found.append(text)
        return GateResult("unknown", missing) if missing else GateResult("passed", ", ".join(found) or "no gates")

    def _require_readable(self, gate: RolloutGate, release: str) -> None:
        """Raises :class:`BadRequest` if a gate cannot be read. A missing value is fine: the first step brings the
        traffic for it."""
        try:
            if gate.metric == "exec":
                check_command_runs(gate, self._service, release)
            elif self._source is not None:
                self._source.value(gate, self._service, release)
        except MetricSourceError as error:
            raise BadRequest(
                f"the gate {gate.text!r} cannot be read: {error}",
                "no share was changed; correct the gate or its source, and run the command again",
            ) from None
        except MetricUnavailable:
            return

    def _check_gate(self, gate: RolloutGate, rollout: RolloutRow) -> tuple[bool, str]:
        if gate.metric == "exec":
            return run_command(gate, self._service, rollout.release, rollout.steps[rollout.position])
        if self._source is None:
            raise MetricUnavailable("neither --prometheus nor --figures is given")
        figure = self._source.value(gate, self._service, rollout.release)
        return gate.passes(figure), gate.describe(figure)

    def _progress(self, rollout: RolloutRow, result: GateResult, left: float) -> str:
        share = f"{rollout.steps[rollout.position] * 100:g} %"
        step = f"step {rollout.position + 1} of {len(rollout.steps)}"
        remaining = f"{max(left, 0):.0f} s left" if left > 0 else "held"
        what = {"passed": "ok", "failed": "FAILED", "unknown": "waiting"}[result.state]
        return f"{rollout.release} at {share}, {step}, {remaining}: {what} ({result.text})"

    # --- the policy

    def _read_policy(self) -> CanaryAnswer:
        """The policy. Raises :class:`Unreachable` if the sidecar has an older one than we have seen."""
        answer, _ = self._sidecar.get("/v1/canary", {"service": self._service}, CanaryAnswer)
        if answer.index < self._seen:
            raise Unreachable(f"the sidecar at {self._sidecar.url} has not caught up with its pool", "")
        self._seen = answer.index
        return answer

    def _wait_for_policy(self) -> CanaryAnswer:
        return self._retry_until_reachable(self._read_policy)

    def _retry_until_reachable(self, ask: Callable[[], CanaryAnswer]) -> CanaryAnswer:
        """Repeat until the sidecar answers. A share that must go to 0 is never given up."""
        while True:
            try:
                return ask()
            except Unreachable as trouble:
                self._report_unreachable(trouble)
            self._sleep(RETRY_SECONDS)

    def _report_unreachable(self, trouble: Unreachable) -> None:
        self._report(f"{trouble.message}; the share stays as it is; trying again")

    def _policy_changed(self, rollout: RolloutRow) -> bool:
        """Whether the policy has another state of this rollout than we wrote. False if the sidecar is unreachable."""
        try:
            return self._read_policy().rollout != rollout
        except Unreachable as trouble:
            self._report_unreachable(trouble)
            return False

    def _running_rollout(self, answer: CanaryAnswer) -> RolloutRow:
        rollout = answer.rollout
        if rollout is None:
            raise TakenOver("the rollout was cleared")
        if self._plan is not None and _plan(rollout) != self._plan:
            raise TakenOver(f"another rollout of {rollout.release} has replaced it")
        if rollout.state != "running":
            raise TakenOver(f"the rollout is {rollout.state}" + (f": {rollout.why}" if rollout.why else ""))
        return rollout

    def _finish(self, rollout: RolloutRow, index: int, share: float) -> RolloutRow:
        while True:
            answer = self._write_step(rollout, index, share)
            if answer.rollout is not None and (_plan(answer.rollout), answer.rollout.state) == (
                _plan(rollout),
                rollout.state,
            ):
                return rollout
            self._running_rollout(answer)
            if rollout.state != "failed":
                return self.run(answer)
            index = answer.index  # another candidate or another command changed the policy, but our rollout has failed

    def _write_step(self, rollout: RolloutRow, index: int, share: float | None = None) -> CanaryAnswer:
        """Write a step or the end. Returns the policy that somebody else has written, if there is one."""
        for again in range(MAX_WRITE_ATTEMPTS):
            try:
                return self._retry_until_reachable(lambda: self._write(rollout, index, share))
            except Refused as refusal:
                answer = self._wait_for_policy()
                if answer.index != index:
                    return answer
                if again == MAX_WRITE_ATTEMPTS - 1:
                    raise
                self._report(f"{refusal.message}; trying again")
            self._sleep(RETRY_SECONDS)
        raise AssertionError

    def _write(self, rollout: RolloutRow, index: int, share: float | None = None) -> CanaryAnswer:
        body = {
            "service": self._service,
            "release": rollout.release,
            "share": rollout.steps[rollout.position] if share is None else share,
            "rollout": msgspec.to_builtins(rollout),
            "index": index,
        }
        answer, _ = self._sidecar.put_policy("/v1/canary", CanaryAnswer, body)
        self._seen = answer.index
        return answer


def _plan(rollout: RolloutRow) -> tuple[object, ...]:
    """The part of a rollout that does not change; the rest is its progress."""
    return (rollout.release, rollout.steps, rollout.hold, rollout.gates, rollout.prometheus, rollout.figures)
