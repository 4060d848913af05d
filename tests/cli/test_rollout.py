"""The guide of a rollout against a sidecar that is away, behind, refuses, or has been told something else. No clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rumormill.cli.exit_codes import Refused, Unreachable
from rumormill.cli.gates import parse_gate
from rumormill.cli.rollout import MAX_WRITE_ATTEMPTS, MIN_METRIC_WAIT, RolloutController, TakenOver
from rumormill.discovery.schema.policies import CanaryAnswer, CandidateRow, RolloutRow

PLAN = RolloutRow("v2", [0.05, 1.0], 10.0, ["exec: true"])


class Pool:
    """A sidecar without a network, and the time around it. ``trouble`` is what it does before it answers."""

    url = "http://sidecar"

    def __init__(self) -> None:
        self.now = 1000.0
        self.index = 0
        self.share = 0.0
        self.rollout: RolloutRow | None = None
        self.said: list[str] = []
        self.asked: list[str] = []
        self.trouble: Callable[[str], None] = lambda method: None

    def answer(self) -> CanaryAnswer:
        return CanaryAnswer("embed", self.index, "w1", "", [CandidateRow("v2", self.share, 1)], 0.0, self.rollout)

    def get(self, path: str, params: Any, kind: Any) -> tuple[CanaryAnswer, bytes]:
        self.asked.append("GET")
        self.trouble("GET")
        return self.answer(), b""

    def put_policy(self, path: str, kind: Any, body: dict[str, Any]) -> tuple[CanaryAnswer, bytes]:
        self.asked.append("PUT")
        self.trouble("PUT")
        if body["index"] != self.index:
            raise Refused("the canary has changed meanwhile", "")
        self.write(body["share"], msgspec.convert(body["rollout"], RolloutRow))
        self.trouble("answer")
        return self.answer(), b""

    def write(self, share: float, rollout: RolloutRow | None) -> None:
        self.index, self.share, self.rollout = self.index + 1, share, rollout

    def run(self, *gates: str, plan: RolloutRow = PLAN) -> RolloutRow:
        controller = RolloutController(
            self,  # type: ignore[arg-type]
            "embed",
            [parse_gate(gate) for gate in gates or plan.gates],
            None,
            every=1.0,
            report=self.said.append,
            sleep=self.sleep,
            clock=lambda: self.now,
        )
        if self.rollout is None:
            controller.start(plan, self.index)
        return controller.run(self.answer())

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 10_000, "guided forever"


def failing(pool: Pool, troubles: list[Exception], *, when: str = "PUT", after: int = 1) -> None:
    """From the ``after``-th on, each ``when`` meets one of the troubles, until there are none left."""
    seen = 0

    def trouble(method: str) -> None:
        nonlocal seen
        seen += method == when
        if method == when and seen > after and troubles:
            raise troubles.pop(0)

    pool.trouble = trouble


def away() -> Unreachable:
    return Unreachable("no sidecar can be reached", "")


def test_a_failed_gate_is_written_even_if_the_sidecar_is_away_then() -> None:
    pool = Pool()
    failing(pool, [away()] * 30)
    assert pool.run("exec: false").state == "failed"
    assert (pool.share, pool.rollout and pool.rollout.state) == (0.0, "failed")
    assert sum("trying again" in line for line in pool.said) == 30


def test_an_answer_that_is_lost_after_the_end_was_written_changes_nothing() -> None:
    for gate, state in (("exec: false", "failed"), ("exec: true", "done")):
        pool = Pool()
        failing(pool, [away()], when="answer", after=1 if state == "failed" else 2)
        assert pool.run(gate).state == state
        assert pool.rollout is not None
        assert pool.rollout.state == state


def test_a_sidecar_that_has_just_started_is_waited_for() -> None:
    pool = Pool()
    failing(pool, [Refused("it has not learned yet what the pool holds", "")] * (MAX_WRITE_ATTEMPTS - 1))
    assert pool.run().state == "done"
    assert pool.share == 1.0


def test_a_lasting_refusal_is_raised() -> None:
    pool = Pool()
    failing(pool, [Refused("the shares add up to 110 %", "")] * MAX_WRITE_ATTEMPTS)
    with pytest.raises(Refused, match="110 %"):
        pool.run()
    assert pool.share == 0.05


def test_a_sidecar_that_knows_an_older_policy_than_ours_has_not_cleared_it() -> None:
    pool = Pool()
    kept: list[tuple[int, float, RolloutRow | None]] = []

    def restart(method: str) -> None:
        if method == "GET" and len(pool.asked) == 4:
            kept.append((pool.index, pool.share, pool.rollout))
            pool.index, pool.share, pool.rollout = 0, 0.0, None
        elif method == "GET" and len(pool.asked) == 9:
            pool.index, pool.share, pool.rollout = kept[0]

    pool.trouble = restart
    assert pool.run().state == "done"
    assert kept
    assert any("has not caught up" in line for line in pool.said)


@pytest.mark.parametrize(
    "other",
    [
        RolloutRow("v1", [0.15], 4.0, ["exec: false"], state="running"),
        RolloutRow("v2", [0.05, 1.0], 10.0, ["exec: false"], state="running"),
        RolloutRow("v2", [0.5, 1.0], 10.0, ["exec: true"], state="running"),
    ],
    ids=["release", "gates", "steps"],
)
@pytest.mark.parametrize("gate", ["exec: true", "exec: false"])
def test_another_rollout_is_not_guided_by_our_gates(other: RolloutRow, gate: str) -> None:
    """Two operators at two sidecars at once: the last one's word holds, and the other's command ends."""
    pool = Pool()
    writes = 3 if gate == "exec: true" else 2

    def replace(method: str) -> None:
        if len(pool.asked) == writes and pool.rollout != other:
            pool.write(0.15, other)

    pool.trouble = replace
    with pytest.raises(TakenOver, match="another rollout of"):
        pool.run(gate)
    assert (pool.share, pool.rollout) == (0.15, other)


def test_a_rollout_continued_late_still_waits_for_missing_values() -> None:
    pool = Pool()
    pool.write(0.05, msgspec.structs.replace(PLAN, since=pool.now))
    pool.now += 3600
    began = pool.now
    ended = pool.run("p99<300ms")  # from nowhere
    assert ended.state == "failed"
    assert MIN_METRIC_WAIT <= pool.now - began <= MIN_METRIC_WAIT + 2
