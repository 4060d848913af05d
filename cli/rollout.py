"""A guided rollout: a release's share goes up step by step while its gates hold, and to 0 when one fails.

How far it has come stands in the pool's policy, written with each step, so the guide may die at any moment: whoever
runs `canary run` next, anywhere, goes on from there, and the share stays as it is meanwhile. Each writing names the
version it has seen (a compare and set), so a guide never writes over what an operator, or another guide, has done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from rumormill.cli.exit_codes import BadRequest, Refused, Unreachable
from rumormill.cli.gates import MetricSource, MetricUnavailable, RolloutGate, Unreadable, run_command, try_command
from rumormill.cli.http_client import SidecarClient
from rumormill.discovery.schema.policies import CanaryAnswer, RolloutRow

LEAST_PATIENCE = 60.0
"""Seconds beyond a step's hold that a missing figure is waited for, at the least; else as long as the hold."""

AGAIN = 1.0
"""Seconds until a sidecar that is away is asked again, where there is something to write."""
TRIES = 5
"""How often a step is written before a sidecar's refusal counts: one that has just started refuses for a moment."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one look at all gates found."""

    state: Literal["passed", "failed", "unknown"]
    text: str


class TakenOver(Exception):
    """The rollout is not ours to guide any more; says who or what ended it."""


class RolloutController:
    """Guides one rollout. ``say`` shows a line of progress; ``sleep`` and ``clock`` are time's, and tests'."""

    def __init__(
        self,
        sidecar: SidecarClient,
        service: str,
        gates: Sequence[RolloutGate],
        source: MetricSource | None,
        *,
        every: float | None,
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sidecar = sidecar
        self._service = service
        self._gates = gates
        self._source = source
        self._every = every
        self._say = say
        self._sleep = sleep
        self._clock = clock
        self._plan: tuple[object, ...] | None = None
        """What the one we guide is to do."""
        self._seen = 0
        """The last index of the policy that we know of."""

    def begin(self, rollout: RolloutRow, index: int) -> CanaryAnswer:
        """Look at every gate, then write the first step.

        Raises :class:`BadRequest`, with nothing shifted, where a gate cannot be read, and :class:`Refused` where the
        sidecar will not have the step.
        """
        for gate in self._gates:
            self._require_readable(gate, rollout.release)
        return self._write(msgspec.structs.replace(rollout, since=self._clock()), index)

    def guide(self, answer: CanaryAnswer) -> RolloutRow:
        """Go on from the policy as it stands until the rollout is done or failed; returns it as it ended.

        Raises :class:`TakenOver`.
        """
        if answer.rollout is not None and self._plan is None:
            self._plan = _plan(answer.rollout)
        self._seen = max(self._seen, answer.index)
        while True:
            rollout = self._ours(answer)
            passed, why = self._hold(rollout)
            if passed is None:
                answer = self._look()
                continue
            if not passed:
                failed = msgspec.structs.replace(rollout, state="failed", why=why[:200])
                return self._end(failed, answer.index, 0.0)
            if rollout.position + 1 == len(rollout.steps):
                done = msgspec.structs.replace(rollout, state="done", why="")
                return self._end(done, answer.index, rollout.steps[-1])
            following = msgspec.structs.replace(rollout, position=rollout.position + 1, since=self._clock())
            answer = self._step(following, answer.index)

    def _hold(self, rollout: RolloutRow) -> tuple[bool | None, str]:
        """Watch one step: True when it has held for its time, False when a gate failed, None when the policy moved."""
        end = rollout.since + rollout.hold
        give_up = max(end, self._clock()) + max(rollout.hold, LEAST_PATIENCE)
        every = self._every or min(max(rollout.hold / 20, 1.0), 15.0)
        while True:
            verdict = self._examine(rollout)
            now = self._clock()
            self._say(self._progress(rollout, verdict, end - now))
            if verdict.state == "failed":
                return False, verdict.text
            if now >= end and verdict.state == "passed":
                return True, ""
            if now >= give_up:
                return False, f"no figures for too long: {verdict.text}"
            self._sleep(min(every, max(end - now, 0.05)) if now < end else every)
            if self._moved(rollout):
                return None, ""

    def _examine(self, rollout: RolloutRow) -> GateResult:
        """Look at every gate. One failure decides; a missing figure leaves it open."""
        found, missing = [], ""
        for gate in self._gates:
            try:
                passed, text = self._check(gate, rollout)
            except MetricUnavailable as error:
                missing = missing or str(error)
                continue
            if not passed:
                return GateResult("failed", f"{gate.text}: {text}")
            found.append(text)
        return GateResult("unknown", missing) if missing else GateResult("passed", ", ".join(found) or "no gates")

    def _require_readable(self, gate: RolloutGate, release: str) -> None:
        """That there are no figures yet is no reason to refuse: the first step brings the traffic for them."""
        try:
            if gate.metric == "exec":
                try_command(gate, self._service, release)
            elif self._source is not None:
                self._source.figure(gate, self._service, release)
        except Unreadable as error:
            raise BadRequest(
                f"the gate {gate.text!r} cannot be read: {error}",
                "nothing was shifted; put right where the gate is read from, and run it again",
            ) from None
        except MetricUnavailable:
            return

    def _check(self, gate: RolloutGate, rollout: RolloutRow) -> tuple[bool, str]:
        if gate.metric == "exec":
            return run_command(gate, self._service, rollout.release, rollout.steps[rollout.position])
        if self._source is None:
            raise MetricUnavailable("neither --prometheus nor --figures says where figures are")
        figure = self._source.figure(gate, self._service, rollout.release)
        return gate.passes(figure), gate.in_words(figure)

    def _progress(self, rollout: RolloutRow, verdict: GateResult, left: float) -> str:
        share = f"{rollout.steps[rollout.position] * 100:g} %"
        step = f"step {rollout.position + 1} of {len(rollout.steps)}"
        remaining = f"{max(left, 0):.0f} s left" if left > 0 else "held"
        what = {"passed": "ok", "failed": "FAILED", "unknown": "waiting"}[verdict.state]
        return f"{rollout.release} at {share}, {step}, {remaining}: {what} ({verdict.text})"

    # --- the policy

    def _ask(self) -> CanaryAnswer:
        """The policy. Raises :class:`Unreachable` where the sidecar knows an older one than we have seen."""
        answer, _ = self._sidecar.get("/v1/canary", {"service": self._service}, CanaryAnswer)
        if answer.index < self._seen:
            raise Unreachable(f"the sidecar at {self._sidecar.url} has not caught up with its pool", "")
        self._seen = answer.index
        return answer

    def _look(self) -> CanaryAnswer:
        return self._patiently(self._ask)

    def _patiently(self, ask: Callable[[], CanaryAnswer]) -> CanaryAnswer:
        """Ask until a sidecar answers: a share that must go to 0 is not given up because nobody listens."""
        while True:
            try:
                return ask()
            except Unreachable as trouble:
                self._say_away(trouble)
            self._sleep(AGAIN)

    def _say_away(self, trouble: Unreachable) -> None:
        self._say(f"{trouble.message}; the share stays as it is, trying again")

    def _moved(self, rollout: RolloutRow) -> bool:
        """Whether the policy says something else of this rollout than we do. A sidecar that is away says nothing."""
        try:
            return self._ask().rollout != rollout
        except Unreachable as trouble:
            self._say_away(trouble)
            return False

    def _ours(self, answer: CanaryAnswer) -> RolloutRow:
        rollout = answer.rollout
        if rollout is None:
            raise TakenOver("the rollout was cleared")
        if self._plan is not None and _plan(rollout) != self._plan:
            raise TakenOver(f"another rollout of {rollout.release} has taken its place")
        if rollout.state != "running":
            raise TakenOver(f"the rollout is {rollout.state}" + (f": {rollout.why}" if rollout.why else ""))
        return rollout

    def _end(self, rollout: RolloutRow, index: int, share: float) -> RolloutRow:
        while True:
            answer = self._step(rollout, index, share)
            if answer.rollout is not None and (_plan(answer.rollout), answer.rollout.state) == (
                _plan(rollout),
                rollout.state,
            ):
                return rollout
            self._ours(answer)
            if rollout.state != "failed":
                return self.guide(answer)
            index = answer.index  # another candidate moved, or another guide: ours has failed

    def _step(self, rollout: RolloutRow, index: int, share: float | None = None) -> CanaryAnswer:
        """Write a step or the end, or answer with what somebody else has written meanwhile."""
        for again in range(TRIES):
            try:
                return self._patiently(lambda: self._write(rollout, index, share))
            except Refused as refusal:
                answer = self._look()
                if answer.index != index:
                    return answer
                if again == TRIES - 1:
                    raise
                self._say(f"{refusal.message}; trying again")
            self._sleep(AGAIN)
        raise AssertionError

    def _write(self, rollout: RolloutRow, index: int, share: float | None = None) -> CanaryAnswer:
        body = {
            "service": self._service,
            "release": rollout.release,
            "share": rollout.steps[rollout.position] if share is None else share,
            "rollout": msgspec.to_builtins(rollout),
            "index": index,
        }
        answer, _ = self._sidecar.steer("/v1/canary", CanaryAnswer, body)
        self._seen = answer.index
        return answer


def _plan(rollout: RolloutRow) -> tuple[object, ...]:
    """What a rollout is to do; the rest is how far it has come."""
    return (rollout.release, rollout.steps, rollout.hold, rollout.gates, rollout.prometheus, rollout.figures)
