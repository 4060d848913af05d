"""Invariants of a whole table, of policies and of datagrams. :mod:`rumormill.simulations.invariants` lists them."""

from __future__ import annotations

from rumormill.gossip import Node
from rumormill.gossip.state import MAX_OUTBOX
from rumormill.gossip.wire import MAX_DATAGRAM
from rumormill.membership import Liveness, MemberChange, MemberTable
from rumormill.membership.policy import PolicyRecord, SignedPolicy
from rumormill.membership.table import sync_bucket
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.invariants import (
    InvariantViolation,
    ObservedProcess,
    ProcessRegistry,
    describe_row,
    node_name,
    node_table,
)


def check_digest(process: ObservedProcess, change: MemberChange, before: int, after: int) -> None:
    """Suspicion never changes the digest."""
    old, new = change.before, change.after
    same = old is not None and new is not None and old.checksum == new.checksum and old.present and new.present
    if same and before != after:
        raise InvariantViolation(
            "digest-stability", f"{process.host.key} changed its digest by suspecting {describe_row(new)}"
        )


class PolicyInvariants:
    """Invariants of policies. Convergence of policies is part of one view, which requires equal digests."""

    def __init__(self) -> None:
        self._written: set[int] = set()

    def check(self, process: ObservedProcess, before: SignedPolicy | None, after: SignedPolicy) -> None:
        """Check a policy that was added or replaced another. Raises :class:`InvariantViolation`."""
        new = after.record
        if after.checksum not in self._written:
            self._written.add(after.checksum)
            if new.writer != node_name(process.node):
                raise InvariantViolation(
                    "policy-writer", f"{process.host.key} holds {new}, but {new.writer} never wrote it"
                )
        check_policy_order(process, before, after)


def check_policy_order(process: ObservedProcess, before: SignedPolicy | None, after: SignedPolicy) -> None:
    """A policy moves only forward. Raises :class:`InvariantViolation`."""
    if before is None:
        return
    old, new = before.record, after.record
    if (new.counter, new.writer, after.checksum) < (old.counter, old.writer, before.checksum):
        raise InvariantViolation("policy-order", f"{process.host.key} moved back from {old} to {new}")


def check_policies(nodes: list[Node]) -> None:
    """Members with equal digests must hold equal policies."""
    held: dict[int, list[PolicyRecord]] = {}
    for node in nodes:
        policies = list(node.view.policies)
        if held.setdefault(node.table_digest, policies) != policies:
            raise InvariantViolation(
                "policies", f"{node_name(node)} holds {policies}; {held[node.table_digest]} elsewhere"
            )


def check_datagram(host: SimulatedHost, data: bytes) -> None:
    if len(data) > MAX_DATAGRAM:
        raise InvariantViolation("bounds", f"{host.key} sent a datagram of {len(data)} bytes")


def check_node(process: ObservedProcess, max_members: int) -> None:
    """Check one member for invariants that no single change shows."""
    node, table, key = process.node, node_table(process.node), process.host.key
    contested = (
        holder := table.settled.get(node_name(node))
    ) is not None and holder.instance not in process.incarnations
    held = any(row.instance in process.incarnations for row in table)
    if node.stopped is None and not process.leaving and not held and not contested:
        raise InvariantViolation("own-row", f"{key} does not hold its own row")
    if len(table) > 2 * max_members:
        raise InvariantViolation("bounds", f"{key} holds {len(table)} rows")
    if node.counters["outbox_full"]:
        raise InvariantViolation("bounds", f"the outbox of {key} overflowed its {MAX_OUTBOX}")
    check_bookkeeping(key, table)


def check_loads(process: ObservedProcess, registry: ProcessRegistry) -> None:
    """A member must hold no load of another that is later than, or differs from, what that instance stated."""
    for member_id, held in process.node.inspect().loads.items():
        subject = registry.by_member_id(member_id)
        stated = subject.node.inspect().own_load if subject is not None else None
        if stated is None or held.number > stated.number or (held.number == stated.number and held != stated):
            raise InvariantViolation("load-origin", f"{process.host.key} holds {held} of one that stated {stated}")


def check_bookkeeping(key: str, table: MemberTable) -> None:
    """Digest, buckets, order and suspects must match the rows."""
    digest, buckets = 0, [0] * 256
    present = [row for row in table if row.present]
    for member_id, checksum in [(row.member_id, row.checksum) for row in present] + [
        (p.member_id, p.checksum) for p in table.policies
    ]:
        digest ^= checksum
        buckets[sync_bucket(member_id)] ^= checksum & 0xFFFFFFFF
    if digest != table.digest:
        raise InvariantViolation("bookkeeping", f"the digest of {key} is not that of its rows")
    if b"".join(part.to_bytes(4, "little") for part in buckets) != table.buckets():
        raise InvariantViolation("bookkeeping", f"the buckets of {key} are not those of its rows")
    if sorted(row.member_id for row in present) != table.present_ids:
        raise InvariantViolation("bookkeeping", f"the order of {key} is not that of its rows")
    if {row.member_id for row in present if row.liveness is Liveness.SUSPECT} != set(table.suspects):
        raise InvariantViolation("bookkeeping", f"the suspects of {key} are not those of its rows")
