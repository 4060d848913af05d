"""All parts of a node, and the order in which they run.

=====================  =======================================  ================================
part                   what it does                             module
=====================  =======================================  ================================
partition_guard        may we evict, or are we cut off          detection/partition_guard.py
leave_protocol         our own leave                            lifecycle/leave.py
own_name               our own name                             lifecycle/own_name.py
failure_detector       heartbeats and misses                    detection/failure_detector.py
load_announcer         how busy our worker is                   dissemination/load_announcer.py
icmp_evidence          misses shown by ICMP refusals            detection/icmp_evidence.py
probes                 pings, acks, indirect pings              detection/probes.py
eviction               suspicions, votes, deaths                lifecycle/eviction.py
updates                what peers say of members                lifecycle/membership_updates.py
join                   joining, and answering joins             lifecycle/join.py
anti_entropy           making two tables equal                  dissemination/anti_entropy.py
key_rotation           changing the group keys                  security/key_rotation.py
flap_damping           probation of flapping members            lifecycle/flap_damping.py
reaper                 retries of the dead, old tombstones      lifecycle/reaper.py
votes                  votes that are valid now                 detection/votes.py
broadcast              broadcasts and piggyback                     dissemination/broadcast.py
=====================  =======================================  ================================

Not in the order, because they have no deadline: table_changes (lifecycle/table_changes.py), name_conflicts
(lifecycle/name_conflicts.py), policy_replication (dissemination/policy_replication.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from rumormill.gossip.config import NodeConfig
from rumormill.gossip.detection.failure_detector import FailureDetector
from rumormill.gossip.detection.icmp_evidence import IcmpEvidence
from rumormill.gossip.detection.mute_detector import MuteDetector
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.dissemination.anti_entropy import AntiEntropy
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.dissemination.load_announcer import LoadAnnouncer
from rumormill.gossip.dissemination.policy_replication import PolicyReplication
from rumormill.gossip.lifecycle.death_claims import DeathClaims
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.lifecycle.flap_damping import FlapDamping
from rumormill.gossip.lifecycle.join import JoinProtocol
from rumormill.gossip.lifecycle.leave import LeaveProtocol
from rumormill.gossip.lifecycle.membership_updates import MembershipUpdates
from rumormill.gossip.lifecycle.name_conflicts import NameConflicts
from rumormill.gossip.lifecycle.own_name import OwnName
from rumormill.gossip.lifecycle.reaper import Reaper
from rumormill.gossip.lifecycle.refutation import Refutation
from rumormill.gossip.lifecycle.table_changes import TableChanges
from rumormill.gossip.part import Part
from rumormill.gossip.security.key_rotation import KeyRotation
from rumormill.gossip.state import NodeState


@dataclass(frozen=True, slots=True)
class Parts:
    """Every part of one node, by name."""

    votes: VoteBook
    broadcast: Broadcast
    leave_protocol: LeaveProtocol
    probes: Probes
    partition_guard: PartitionGuard
    name_conflicts: NameConflicts
    table_changes: TableChanges
    eviction: Eviction
    updates: MembershipUpdates
    failure_detector: FailureDetector
    load_announcer: LoadAnnouncer
    icmp_evidence: IcmpEvidence
    own_name: OwnName
    flap_damping: FlapDamping
    join: JoinProtocol
    anti_entropy: AntiEntropy
    reaper: Reaper
    policy_replication: PolicyReplication
    key_rotation: KeyRotation

    def in_order(self) -> tuple[Part, ...]:
        """The parts in the order of their ticks. A restart after a pause runs in the reverse order."""
        return (
            self.partition_guard,  # first: it decides whether the others may judge anybody
            self.leave_protocol,
            self.own_name,  # before the heartbeats, which carry our latest record
            self.failure_detector,  # early: nobody should miss our heartbeat while we do slower work
            self.load_announcer,  # after the heartbeats, which take the figure to our monitors
            self.icmp_evidence,
            self.probes,  # after those two, which ask for pings
            self.eviction,  # after new votes
            self.updates,  # after evictions, which free names for claimants
            self.join,
            self.anti_entropy,  # after the join, which may have brought the first peer
            self.key_rotation,
            self.flap_damping,
            self.reaper,  # last: it forgets members that others may still have used
            self.votes,
            self.broadcast,  # never ticks: the node flushes it at the end of every step
        )


def build_parts(state: NodeState, config: NodeConfig) -> Parts:
    """Create the parts, each with those that it calls. What goes the other way is in effects.py."""
    votes = VoteBook(state)
    broadcast = Broadcast(state, votes)
    leave_protocol = LeaveProtocol(state, broadcast)
    probes = Probes(state, broadcast)
    guard = PartitionGuard(state, MuteDetector(state, probes))
    name_conflicts, death_claims = NameConflicts(state), DeathClaims(state)
    changes = TableChanges(state, votes, broadcast, guard, name_conflicts, death_claims)
    eviction = Eviction(state, votes, broadcast, guard, death_claims, changes)
    updates = MembershipUpdates(state, changes, eviction, Refutation(state, broadcast, guard), name_conflicts)
    detector = FailureDetector(state, votes, eviction, guard, probes)
    icmp_evidence = IcmpEvidence(state, probes, detector, guard)
    own_name = OwnName(state, broadcast, leave_protocol, probes)
    damping = FlapDamping(state, broadcast)
    join = JoinProtocol(state, updates, own_name, damping)
    anti_entropy = AntiEntropy(state, broadcast, probes)
    return Parts(
        votes=votes,
        broadcast=broadcast,
        leave_protocol=leave_protocol,
        probes=probes,
        partition_guard=guard,
        name_conflicts=name_conflicts,
        table_changes=changes,
        eviction=eviction,
        updates=updates,
        failure_detector=detector,
        load_announcer=LoadAnnouncer(state, detector),
        icmp_evidence=icmp_evidence,
        own_name=own_name,
        flap_damping=damping,
        join=join,
        anti_entropy=anti_entropy,
        reaper=Reaper(state, votes, probes, own_name, damping),
        policy_replication=PolicyReplication(
            state, broadcast, config.policy_key, join, anti_entropy, config.policy_schema
        ),
        key_rotation=KeyRotation(state, broadcast, config.keyring, config.key_version),
    )
