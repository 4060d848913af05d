"""Who monitors whom.

All present members form a circle in the order of their instances. Instances are hashes, so the order is random. A
member's monitors are its first K successors that are not suspect; with K + 1 members or fewer, all others are monitors.

Some votes count only from *established* members of two hosts (rumormill.gossip.detection.voter_eligibility). Where the
K monitors do not include enough of them, the next established members on the circle are added. So newcomers are never
the only ones to observe a death. An established member among the K monitors anyway; one further on must be old enough
to have started monitoring.

Each member computes this from its own table alone. Views that differ for a moment do no harm: an unexpected heartbeat
is a sign of life, and a missing one is verified before it counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator

from rumormill.membership.record import MemberId
from rumormill.membership.table import MemberTable

HostOfEstablished = Callable[[MemberId, bool], str]
"""The host of a member, by id, if the member's votes count: as one of the K monitors of a subject (True), or as one
further on (False). Empty for a newcomer."""
MAX_SUBJECTS_FACTOR = 8
"""A member monitors at most this many times K subjects. Two established members among hundreds cannot monitor all."""


def monitors_of(
    member_id: MemberId, table: MemberTable, count: int, host_of_established: HostOfEstablished | None = None
) -> list[MemberId]:
    """The ids that a member sends heartbeats to: ``count`` successors that are not suspect, then suspects if too few.

    With ``host_of_established``, also the next established members, until two distinct hosts are among them.
    """
    monitors: list[MemberId] = []
    suspects: list[MemberId] = []
    hosts: set[str] = set()
    passed = 0
    for other in _successors(member_id, table.present_ids):
        if other in table.suspects:
            suspects.append(other)
            continue
        host = host_of_established(other, passed < count) if host_of_established is not None else ""
        if passed < count or _needed(host, hosts):
            monitors.append(other)
        hosts.add(host)
        passed += 1
        if passed >= count and (host_of_established is None or _enough(hosts)):
            return monitors
    return monitors + suspects[: max(0, count - len(monitors))]


def subjects_of(
    member_id: MemberId, table: MemberTable, count: int, host_of_established: HostOfEstablished | None = None
) -> list[MemberId]:
    """The ids that a member expects heartbeats from: predecessors, until ``count`` that are not suspect are passed.

    Suspects among them are monitored as well. With ``host_of_established``, also those further back that need this
    member as one of their established monitors.
    """
    subjects: list[MemberId] = []
    hosts: set[str] = set()
    nearest: deque[str] = deque(maxlen=count)
    """The hosts of the latest members passed: these are among the K monitors of the next."""
    host = host_of_established(member_id, False) if host_of_established is not None else ""
    passed = 0
    for other in _predecessors(member_id, table.present_ids):
        if passed < count or _needed(host, hosts.union(nearest)):
            subjects.append(other)
        if other not in table.suspects:
            passed += 1
            if host_of_established is not None:
                hosts.add(host_of_established(other, False))
                nearest.append(host_of_established(other, True))
        if len(subjects) == MAX_SUBJECTS_FACTOR * count or (passed >= count and not _needed(host, hosts)):
            break
    return subjects


def _needed(host: str, hosts: set[str]) -> bool:
    """Whether an established member of this host adds to the hosts passed."""
    return host != "" and host not in hosts and not _enough(hosts)


def _enough(hosts: set[str]) -> bool:
    return len(hosts) - ("" in hosts) >= 2


def _successors(member_id: MemberId, order: list[MemberId]) -> Iterator[MemberId]:
    start = bisect_right(order, member_id)
    for index in range(start, start + len(order)):
        other = order[index % len(order)]
        if other != member_id:
            yield other


def _predecessors(member_id: MemberId, order: list[MemberId]) -> Iterator[MemberId]:
    start = bisect_left(order, member_id) - 1
    for index in range(start, start - len(order), -1):
        other = order[index % len(order)]
        if other != member_id:
            yield other
