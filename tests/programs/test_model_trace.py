"""The rules that spin explores are those of the code: the same file checks each decision in the lab's stories."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from model.explore import RULES
from model.trace import DecisionRecorder, TraceChecker
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.lifecycle.membership_updates import MembershipUpdates
from rumormill.membership.record import MemberId
from rumormill.simulations.operations import Story
from rumormill.simulations.plans import Job

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing: apt-get install -y gcc libc6-dev")
STORIES = sorted((Path(__file__).parents[1] / "simulations" / "stories").glob("*.json"))
SCENARIOS = ("crash", "freeze", "even-split", "rolling-restart", "flapping", "lossy")


def play_all() -> Counter[str]:
    """The decisions in every story that a bug was once found in, and in scenarios of 16 members."""
    stories = [Story.from_json(path.read_bytes()) for path in STORIES]
    stories += [Job(scenario, 16, 1).story() for scenario in SCENARIOS]
    with DecisionRecorder() as recorder:
        for story in stories:
            story.play(story.world())
    return recorder.decisions


@pytest.fixture(scope="module")
def decisions() -> Counter[str]:
    return play_all()


def test_every_decision_of_the_lab_follows_the_rules(decisions: Counter[str], tmp_path: Path) -> None:
    assert TraceChecker(tmp_path).broken(decisions) == []
    print(f"{decisions.total()} decisions of {len(decisions)} kinds")


def test_the_stories_decide_each_rule_both_ways(decisions: Counter[str]) -> None:
    seen = {tuple(line.split()[:2]) for line in decisions}
    rules = {"replaces", "is_weighed", "vote_counts", "may_evict", "refutes", "must_wait", "keeps_name", "settles"}
    assert {(rule, outcome) for rule in rules for outcome in ("0", "1")} <= seen
    assert {("believed", "1"), ("believed", "2")} <= seen


@pytest.mark.parametrize("rule", RULES)
def test_a_removed_rule_is_missed_by_some_decision(rule: str, decisions: Counter[str], tmp_path: Path) -> None:
    """So the stories exercise each rule, and code without it would be found out."""
    assert TraceChecker(tmp_path, rule).broken(decisions)


def test_code_that_weighs_verdicts_on_former_incarnations_is_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weigh = MembershipUpdates._subject

    def weigh_all(self: MembershipUpdates, member_id: MemberId, incarnation: int, *rest: Any, **named: Any) -> Any:
        row = self._state.table.get(member_id)
        return row if row is not None and row.present else weigh(self, member_id, incarnation, *rest, **named)

    monkeypatch.setattr(MembershipUpdates, "_subject", weigh_all)
    assert any("is_weighed" in line for line in TraceChecker(tmp_path).broken(play_all()))


def test_code_that_evicts_on_one_vote_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Eviction, "_has_enough_votes", lambda _self, _row, votes: bool(votes))
    assert any("may_evict" in line for line in TraceChecker(tmp_path).broken(play_all()))
