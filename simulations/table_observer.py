"""Watches each change in a member's table, and checks the invariants of single changes."""

from __future__ import annotations

from collections.abc import Callable

from rumormill.membership import MemberChange
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import SignedPolicy
from rumormill.membership.record import MemberId
from rumormill.simulations.invariants import MemberInvariants, ObservedProcess, ProcessRegistry, node_table
from rumormill.simulations.table_invariants import check_digest

PolicyCheck = Callable[[ObservedProcess, SignedPolicy | None, SignedPolicy], None]
"""Checks a policy that was added to a member's table, or replaced another one."""


class TableObserver:
    """Wraps the methods by which tables change."""

    def __init__(
        self,
        registry: ProcessRegistry,
        member_invariants: MemberInvariants,
        check_policy: PolicyCheck,
        *,
        now: Callable[[], int],
        run_check: Callable[[Callable[[], None]], None],
    ) -> None:
        """`run_check` runs a check, and handles the InvariantViolation that it may raise."""
        self._registry = registry
        self._member_invariants = member_invariants
        self._check_policy = check_policy
        self._now = now
        self._run_check = run_check

    def observe(self, process: ObservedProcess) -> None:
        """Check every change in this member's table from now on."""
        table = node_table(process.node)
        apply, withdraw, apply_policy = table.apply, table.withdraw_suspicion, table.apply_policy

        def watched_apply(row: MemberState) -> MemberChange | None:
            return self._changed(process, lambda: apply(row))

        def watched_withdraw(member_id: MemberId) -> MemberChange | None:
            change = withdraw(member_id)
            if change is not None:
                self._run_check(lambda: self._member_invariants.check_withdrawal(process, change))
            return change

        def watched_policy(policy: SignedPolicy) -> bool:
            before = table.policies.get(policy.member_id)
            changed = apply_policy(policy)
            after = table.policies.get(policy.member_id)
            if changed and after is not None:
                self._run_check(lambda: self._check_policy(process, before, after))
            return changed

        for name, method in (
            ("apply", watched_apply),
            ("withdraw_suspicion", watched_withdraw),
            ("apply_policy", watched_policy),
        ):
            setattr(table, name, method)

    def _changed(self, process: ObservedProcess, apply: Callable[[], MemberChange | None]) -> MemberChange | None:
        table = node_table(process.node)
        digest = table.digest
        change = apply()
        if change is None:
            return None
        if change.after is process.node.inspect().me:
            self._registry.own_row_changed(process, change.after)
        self._run_check(lambda: self._member_invariants.check(process, change, self._now()))
        self._run_check(lambda: check_digest(process, change, digest, table.digest))
        return change
