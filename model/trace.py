"""Takes down what the real code decides by the rules of rules.h, and has each decision checked by the same rules.

A decision is a line for check_trace.c: the rule, the outcome, and the facts it was taken on. The facts are read from
the node just before the named function runs, so that a function which no longer asks for one of them is found out.
Counters are compared only with each other, so they are written as 0 and 1, and a million decisions have a few hundred
kinds.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from model.explore import FOLDER, RULES
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.lifecycle.membership_updates import MembershipUpdates
from rumormill.gossip.lifecycle.name_conflicts import HOLDER_GRACE_PERIODS, NameConflicts
from rumormill.gossip.lifecycle.own_name import OwnName
from rumormill.gossip.lifecycle.refutation import Refutation
from rumormill.gossip.lifecycle.table_changes import TableChanges
from rumormill.membership import table as table_module
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness

EVICTIONS = ("evictions_missed", "evictions_refused")


class DecisionRecorder:
    """Counts the decisions of all nodes of this process while its block runs."""

    def __init__(self) -> None:
        self.decisions: Counter[str] = Counter()
        self._stack = ExitStack()
        self._evicting = 0
        """Whether the code is in one of the functions that may conclude a death."""
        self._sufficed = False
        """Whether the latest votes that were weighed sufficed."""

    def __enter__(self) -> DecisionRecorder:
        self._around(table_module, "merge", self._merge)
        self._around(VoteBook, "valid_votes", self._valid_votes)
        self._around(PartitionGuard, "defer_eviction", self._defer_eviction)
        self._around(Eviction, "try_evict", self._try_evict)
        self._around(Eviction, "_evict_deferred", self._evict_deferred)
        self._around(MembershipUpdates, "_subject", self._subject)
        self._around(MembershipUpdates, "handle_death", self._handle_death)
        self._around(TableChanges, "apply", self._apply)
        self._around(Refutation, "refute", self._refute)
        self._around(NameConflicts, "blocking_holder", self._blocking_holder)
        self._around(NameConflicts, "keeps_name", self._keeps_name)
        self._around(OwnName, "reconcile", self._reconcile)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _around(self, where: Any, name: str, watch: Callable[..., Any]) -> None:
        """Have ``watch`` called in place of a function, with the function as its first argument."""
        original = getattr(where, name)

        def watched(*args: Any, **named: Any) -> Any:
            return watch(original, *args, **named)

        setattr(where, name, watched)
        self._stack.callback(setattr, where, name, original)

    def _note(self, rule: str, outcome: int, *facts: int) -> None:
        self.decisions[" ".join(map(str, (rule, int(outcome), *map(int, facts))))] += 1

    # --- merge

    def _merge(self, original: Any, held: MemberState | None, heard: MemberState) -> MemberState:
        result: MemberState = original(held, heard)
        if held is not None:
            generation = _ranks(heard.generation, held.generation)
            instance = _ranks(heard.instance, held.instance)
            incarnation = _ranks(heard.incarnation, held.incarnation)
            checksum = _ranks(heard.checksum, held.checksum)
            facts = list(zip(generation, instance, incarnation, (heard.liveness, held.liveness), checksum, strict=True))
            self._note("replaces", result is not held, *facts[0], *facts[1])
        return result

    # --- votes and deaths

    def _subject(
        self, original: Any, updates: MembershipUpdates, subject: Any, incarnation: int, *args: Any, **named: Any
    ) -> Any:
        state = updates._state
        row = state.table.get(subject)
        result = original(updates, subject, incarnation, *args, **named)
        if row is not None and subject != state.me.member_id:
            self._note("is_weighed", result is not None, *_ranks(incarnation, row.incarnation), row.present)
        return result

    def _valid_votes(self, original: Any, book: VoteBook, subject: Any) -> Any:
        valid = original(book, subject)
        state, row = book._state, book._state.table.get(subject)
        for vote in book.all_votes(subject) if row is not None else ():
            assert row is not None
            voter = state.table.get(vote.voter)
            self._note(
                "vote_counts",
                vote in valid,
                *_ranks(vote.incarnation, row.incarnation),
                state.now - vote.cast <= book.lifetime,
                vote.voter == state.me.member_id,
                Liveness.LEFT if voter is None else voter.liveness,
                state.alive_since.get(vote.voter, -1e9) <= vote.cast,
                voter is not None and voter.pending and book._any_settled(),
            )
        return valid

    def _defer_eviction(self, original: Any, guard: PartitionGuard, subject: Any) -> Any:
        self._sufficed = True  # the code asks for a deferral only then
        return original(guard, subject)

    def _try_evict(self, original: Any, eviction: Eviction, subject: Any) -> Any:
        state = eviction._state
        row = state.table.get(subject)
        if row is None or subject == state.me.member_id or not row.present:
            return original(eviction, subject)
        voters = [vote.voter for vote in eviction._votes.valid_votes(subject)]
        facts = (
            min(2, len(voters)),
            state.voter_eligibility.is_quorum(voters) or eviction._saw_it_ourselves(subject, voters),
            state.me.member_id in voters,
            _lone_vote_suffices(eviction, row),
            state.heard_lately(subject),
        )
        self._sufficed, self._evicting = False, self._evicting + 1
        try:
            return original(eviction, subject)
        finally:
            self._evicting -= 1
            self._note("may_evict", self._sufficed, *facts)

    def _evict_deferred(self, original: Any, eviction: Eviction) -> None:
        """Deaths that were deferred when their votes sufficed."""
        self._evicting += 1
        try:
            original(eviction)
        finally:
            self._evicting -= 1

    def _apply(self, original: Any, changes: TableChanges, row: MemberState, *args: Any, **named: Any) -> Any:
        """Every other way to a death is one without votes."""
        held = changes._state.table.get(row.member_id)
        changed = original(changes, row, *args, **named)
        if changed and not self._evicting and row.liveness is Liveness.DEAD and held is not None and held.present:
            self._note("believed", Liveness.DEAD, 0)
        return changed

    def _handle_death(self, original: Any, updates: MembershipUpdates, claim: Any, *args: Any, **named: Any) -> None:
        state = updates._state
        row = state.table.get(claim.subject)
        weighed = row is not None and row.present and row.incarnation == claim.incarnation
        before = _evicted(state.counters)
        self._sufficed = False
        original(updates, claim, *args, **named)
        if not weighed or claim.subject == state.me.member_id:
            return
        if _evicted(state.counters) > before:
            self._note("believed", Liveness.DEAD, self._sufficed)
        elif not self._sufficed and (row := state.table.get(claim.subject)) is not None:
            self._note("believed", row.liveness, 0)

    def _refute(self, original: Any, refutation: Refutation, incarnation: int, *args: Any, **named: Any) -> None:
        state = refutation._state
        own, leaving = state.me.incarnation, state.leaving
        original(refutation, incarnation, *args, **named)
        self._note("refutes", state.me.incarnation > own, *_ranks(incarnation, own), leaving)

    # --- names

    def _blocking_holder(self, original: Any, conflicts: NameConflicts, row: MemberState) -> Any:
        held = conflicts._state.table.settled.get(row.name)
        result = original(conflicts, row)
        if held is not None:
            same, later = held.member_id == row.member_id, held.succession < row.succession
            self._note("must_wait", result is not None, row.pending, same, later, conflicts.keeps_name(held))
        return result

    def _keeps_name(self, original: Any, conflicts: NameConflicts, holder: MemberState) -> Any:
        state = conflicts._state
        since = state.suspect_since.get(holder.member_id)
        long = since is not None and state.now - since >= HOLDER_GRACE_PERIODS * state.settings.period
        result = original(conflicts, holder)
        self._note("keeps_name", result, holder.liveness, long)
        return result

    def _reconcile(self, original: Any, own_name: OwnName) -> None:
        state = own_name._state
        settled = state.table.settled.get(state.me.name)
        waits = state.identity.pending and not state.stopped
        ours = settled is not None and settled.instance == state.me.instance
        original(own_name)
        if waits:
            liveness = Liveness.ALIVE if settled is None else settled.liveness
            self._note("settles", not state.identity.pending, settled is not None, ours, liveness)


def _ranks(one: Any, other: Any) -> tuple[int, int]:
    return int(one > other), int(other > one)


def _evicted(counters: Any) -> int:
    return sum(counters[name] for name in EVICTIONS)


def _lone_vote_suffices(eviction: Eviction, row: MemberState) -> bool:
    return (
        eviction._partition_guard.may_evict_alone
        or eviction._death_claims.counts_as_vote(row)
        or (not row.pending and eviction._in_pool_of_two())
        or (eviction._state.refused_since_heard(row.member_id) and eviction._nobody_could_second(row))
    )


class TraceChecker:
    """check_trace.c, compiled, perhaps with one rule removed."""

    def __init__(self, folder: Path, removed: str = "") -> None:
        """Raises subprocess.CalledProcessError if gcc does."""
        self._program = folder / f"check-{removed or 'all'}"
        defines = [f"-DSABOTAGE={RULES[removed]}"] if removed else []
        argv = ["gcc", "-O1", "-Wall", *defines, "-o", str(self._program), str(FOLDER / "check_trace.c")]
        subprocess.run(argv, check=True)

    def broken(self, decisions: Iterable[str]) -> list[str]:
        """The decisions that the rules would have taken otherwise, each with what they say."""
        lines = "".join(f"{line}\n" for line in decisions)
        done = subprocess.run([self._program], input=lines, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr)
        return done.stdout.splitlines()
