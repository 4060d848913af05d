"""The state that all parts of a node share: its identity, the table, signs of life, and the outbox.

Each part owns its deadlines and its own memory. They share only this state. Nothing in this package reads a clock: the
node's verbs set ``now``, in seconds, and it never goes back.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from rumormill.gossip.detection.voter_eligibility import VoterEligibility
from rumormill.gossip.dissemination.own_load import OwnLoad
from rumormill.gossip.effects import Effects
from rumormill.gossip.identity import Identity, Profile
from rumormill.gossip.reporting.event_kinds import NO_CHANGE, StateWords
from rumormill.gossip.reporting.operator_warnings import OperatorWarnings, address_text
from rumormill.gossip.security.credentials import Authority, MemberKeys, leave_text, record_text, vote_text
from rumormill.gossip.security.seal import OVERHEAD, Seal
from rumormill.gossip.security.sent_datagrams import SentDatagrams
from rumormill.gossip.security.signature_verifier import SignatureVerifier
from rumormill.gossip.settings import ProtocolSettings
from rumormill.gossip.wire import (
    KIND_BY_TAG,
    KIND_BY_TYPE,
    LOAD_KIND,
    MAX_DATAGRAM,
    Message,
    assemble,
    encode_message,
    payload_prefix,
)
from rumormill.membership.load import CallerRegister, LoadRegister
from rumormill.membership.measurements import GossipMeasurements
from rumormill.membership.member_state import MemberState, member_state_of_record_untrusted
from rumormill.membership.record import (
    COUNTER_LIMIT,
    MAX_OWN_RECORD_BYTES,
    Address,
    MemberId,
    Signature,
    encode_record,
    validate_record,
)
from rumormill.membership.table import MemberTable
from rumormill.membership.view import Connectivity, Event

ENVELOPE_BYTES = 24
"""Room reserved for the start of a payload: generation, incarnation and the array header."""
MAX_MESSAGE_BYTES = MAX_DATAGRAM - OVERHEAD - ENVELOPE_BYTES
"""Bytes of messages that fit one datagram."""
STRANGER_PREFIX = payload_prefix(0, 0)
"""Payloads to strangers state no generation or incarnation, so the length of an answer is known."""
MAX_EVENTS = 1000
MAX_OUTBOX = 4096


class NodeState:
    """Shared by all parts of one node. ``me`` is our own row, as we last wrote it."""

    __slots__ = (
        "_identity",
        "_last_time",
        "_prefix",
        "alive_since",
        "arrived",
        "callers",
        "cluster",
        "connectivity",
        "counters",
        "dead_since",
        "effects",
        "events",
        "known_since",
        "last_heard",
        "last_heard_anyone",
        "leaving",
        "loads",
        "me",
        "measurements",
        "now",
        "operator_warnings",
        "outbox",
        "own_load",
        "received",
        "refused_at",
        "rng",
        "seal",
        "sent",
        "sent_datagrams",
        "settings",
        "signatures",
        "stopped",
        "suspect_since",
        "table",
        "token_bytes",
        "voter_eligibility",
        "why",
    )

    def __init__(
        self,
        *,
        identity: Identity,
        cluster: str,
        seal: Seal,
        authority: Authority | None,
        rng: random.Random,
        token_bytes: Callable[[int], bytes],
        settings: ProtocolSettings,
        now: float,
    ) -> None:
        self.settings = settings
        self.cluster = cluster
        self.rng = rng
        self.token_bytes = token_bytes
        self.now = now
        self.arrived = now
        self.table = MemberTable(settings.max_members)
        self.counters: Counter[str] = Counter()
        self.received = self.sent = 0
        """Datagrams. These two change all the time, so they are plain integers beside ``counters``."""
        self.measurements = GossipMeasurements()
        self.events: list[Event] = []
        self.leaving = False
        self.stopped = None
        self.connectivity = Connectivity.CONNECTED
        self.last_heard = {}
        self.last_heard_anyone = now
        self.refused_at = {}
        self.known_since = {}
        self.alive_since: dict[MemberId, float] = {}
        """When members that had been suspect or dead were last cleared. Their earlier votes do not count."""
        self.suspect_since: dict[MemberId, float] = {}
        self.why: dict[MemberId, str] = {}
        """The reason for each member's present liveness, in words."""
        self.dead_since: dict[MemberId, float] = {}
        self._identity = identity
        self.outbox = []
        self.own_load = OwnLoad()
        self.loads = LoadRegister()
        self.callers = CallerRegister()
        self._last_time: dict[tuple[bytes, str], float] = {}
        self.sent_datagrams = SentDatagrams()
        self.seal = seal
        self.signatures = SignatureVerifier(self.seal.label, authority, self.counters, self._warn_of_identity)
        self.operator_warnings = OperatorWarnings()
        self.voter_eligibility = VoterEligibility(self, certified=authority is not None)
        self.rewrite_record()

    arrived: float
    """When the current datagram arrived at our socket: before ``now`` if we read it late."""
    connectivity: Connectivity
    """Our connectivity to the other members (partition_guard.py)."""
    known_since: dict[MemberId, float]
    """When each instance became known here."""
    last_heard: dict[MemberId, float]
    """When each member last showed a sign of life."""
    leaving: bool
    """Whether we are leaving the pool (leave.py)."""
    loads: LoadRegister
    """How busy the others' workers are, as each of them says."""
    outbox: list[tuple[Address, bytes]]
    """Datagrams to send, oldest first."""
    own_load: OwnLoad
    """How busy our worker is, as we tell others."""
    refused_at: dict[MemberId, float]
    """When we sent the last ping whose ICMP refusals convinced us. Signs of life before it are void."""
    stopped: str | None
    """Why this node stopped (own_name.py), in words; None while it runs."""
    callers: CallerRegister
    """What the callers of other members report of our worker."""
    effects: Effects
    """Set once all parts exist."""

    # --- who we are

    @property
    def gone(self) -> bool:
        """Whether we are leaving, or have stopped."""
        return self.leaving or self.stopped is not None

    @property
    def isolated(self) -> bool:
        """Whether we may be the one that is cut off. We then show what we last knew, and evict nobody."""
        return self.connectivity is not Connectivity.CONNECTED

    @property
    def cut_off(self) -> bool:
        """Whether at least one direction is cut: nobody can then refute our suspicions."""
        return self.connectivity in (Connectivity.DEAF, Connectivity.MUTE)

    @property
    def identity(self) -> Identity:
        return self._identity

    def rewrite_record(self) -> None:
        """Write our record from the identity, sign it, and apply it to the table."""
        record = self._identity.record(self.now, self.settings.period, self.settings.wire_version)
        validate_record(record, MAX_OWN_RECORD_BYTES)
        keys, encoded = self._identity.keys, encode_record(record)
        self.me = member_state_of_record_untrusted(encoded, keys.sign(record_text(self.seal.label, encoded)))
        if self.seal.member_id != keys.member_id:
            self.seal = self.seal.renewed(self.cluster, keys)
            self.own_load.told.clear()  # nobody has been told anything by this instance
        self._prefix = payload_prefix(self.me.generation, self.me.incarnation)
        self.table.apply(self.me)
        self.voter_eligibility.note_known(self.me.member_id)

    def raise_incarnation(self, above: int = 0) -> None:
        """Rewrite our record at an incarnation greater than the present one and than ``above``."""
        self._identity.incarnation = min(max(self._identity.incarnation, above) + 1, COUNTER_LIMIT - 1)
        self.rewrite_record()

    def sign_leave(self) -> Signature:
        """Our signature that we leave, at our present incarnation."""
        return Signature(self._identity.keys.sign(leave_text(self.seal.label, self.me.instance, self.me.incarnation)))

    def sign_vote(self, subject: MemberState, stamp: int) -> Signature:
        """Our signature that we observed three misses of a member at its present incarnation."""
        text = vote_text(self.seal.label, self.me.instance, subject.instance, subject.incarnation, stamp)
        return Signature(self._identity.keys.sign(text))

    def take_new_keys(self) -> None:
        """Become another instance at the next :meth:`rewrite_record`."""
        self._identity.keys = MemberKeys.generate(self.token_bytes, self._identity.credential)

    def set_profile(self, profile: Profile) -> None:
        self._identity.profile = profile
        self.raise_incarnation()

    def speaks(self, row: MemberState, version: int) -> bool:
        """Whether both we and a member speak this wire version, so that its messages may pass between us."""
        return min(row.wire, self.settings.wire_version) >= version

    # --- time and memory

    def throttle(self, who: bytes, what: str, every: float) -> bool:
        """True at most once in ``every`` seconds for the purpose ``what`` and ``who``: a member id, or two joined."""
        key = (who, what)
        if self.now - self._last_time.get(key, -1e9) < every:
            return False
        if len(self._last_time) >= 4096:
            self._last_time = {k: at for k, at in self._last_time.items() if self.now - at < 2.0}
        self._last_time[key] = self.now
        return True

    def heard_within(self, member_id: MemberId, seconds: float) -> bool:
        return self.now - self.last_heard.get(member_id, -1e9) < seconds

    def heard_lately(self, member_id: MemberId) -> bool:
        """Whether a member was heard within period and grace, and no ICMP refusal voids that."""
        within = self.settings.period + self.settings.grace
        return self.heard_within(member_id, within) and not self.refused_since_heard(member_id)

    def refused_since_heard(self, member_id: MemberId) -> bool:
        """Whether ICMP refusals convinced us that a member's process is gone, and it was not heard since."""
        return self.refused_at.get(member_id, -1e9) > self.last_heard.get(member_id, -1e9)

    def per_member_maps(self) -> tuple[dict[MemberId, Any], ...]:
        """Everything here that is kept per member id. A forgotten member is removed from all of them."""
        return (
            self.known_since,
            self.last_heard,
            self.refused_at,
            self.alive_since,
            self.suspect_since,
            self.dead_since,
            self.why,
            self.loads.figures,
            self.loads.heard,
            self.own_load.told,
            self.own_load.callers,
            self.callers.latest,
        )

    def name_of(self, member_id: MemberId) -> str:
        row = self.table.get(member_id)
        return row.name if row else member_id.hex()

    def record_event(self, kind: str, member: str, text: str, *, change: StateWords = NO_CHANGE) -> None:
        """Record an event. If nobody collects them, the oldest are dropped."""
        if len(self.events) >= MAX_EVENTS:
            del self.events[: MAX_EVENTS // 10]
        self.counters[f"event_{kind}"] += 1
        self.events.append(Event(self.now, kind, member, text, *change))

    def warn_operator(self, kind: str, source: Address, text: str, *, ours: bool = False) -> None:
        """Warn our operator, rate-limited, of a host that cannot join us, or (``ours``) does not let us join."""
        if ours:
            self.operator_warnings.note_problem(text, self.now)
        if self.operator_warnings.due(kind, source, self.now):
            self.record_event("refused", self.me.name, text)

    def _warn_of_identity(self, row: MemberState) -> None:
        """Warn of a record that our authority did not certify."""
        if row.address is None or row.record is None:
            return
        lack = "an identity of another authority or name" if row.record.certificate else "no identity"
        text = (
            f"{row.name} at {address_text(row.address)} is not a member here: it shows {lack}; make it one with the "
            "private half of --ca-file (rumormill keys issue), and start it with --identity-file and --ca-file"
        )
        self.warn_operator("identity", row.address, text, ours=len(self.table) <= 1)

    # --- sending

    def send(self, row: MemberState, *messages: Message) -> None:
        """Seal messages for a member and put the datagram in the outbox."""
        self.send_encoded(row, [encode_message(message) for message in messages])

    def send_encoded(self, row: MemberState, messages: list[bytes]) -> None:
        if row.address is not None:
            self.post(row.address, row, messages)

    def post(self, address: Address, member: MemberState, messages: list[bytes]) -> None:
        """Seal encoded messages for a member, queue the datagram, and remember its last bytes."""
        fields = self.own_load.fields_for(member.member_id, self.now, messages)
        datagram = self._sealed(member, messages, fields)
        self.sent_datagrams.note(datagram, address, member.member_id)
        self.post_raw(address, datagram, KIND_BY_TAG[messages[0][1]] if messages else LOAD_KIND)

    def post_raw(self, address: Address, datagram: bytes, kind: int) -> None:
        """Queue a sealed datagram. The queue is bounded. What does not fit is dropped and counted.

        ``kind`` is a position in :data:`~rumormill.membership.measurements.DATAGRAM_KINDS`.
        """
        if len(self.outbox) >= MAX_OUTBOX:
            self.counters["outbox_full"] += 1
            return
        self.outbox.append((address, datagram))
        self.measurements.sent.count(kind, len(datagram))

    def send_to_stranger(self, address: Address, receiver: MemberId, message: Message) -> None:
        """Send to a host that may not know us. The receiver is a member id, or
        :data:`~rumormill.gossip.security.seal.UNKNOWN_RECEIVER`."""
        payload = assemble(STRANGER_PREFIX, [encode_message(message)])
        self.post_raw(address, self.seal.seal_for_stranger(receiver, payload), KIND_BY_TYPE[type(message)])

    def sealed_for(self, row: MemberState, message: Message) -> bytes:
        """A sealed datagram for a member, for another member to relay."""
        return self._sealed(row, [encode_message(message)])

    def has_keys_of(self, member_id: MemberId) -> bool:
        """Whether we hold the keys to open what this member seals. Takes them from its record if needed."""
        if member_id in self.seal.peers:
            return True
        row = self.table.get(member_id)
        if row is None or row.record is None:
            return False
        self.seal.add_peer(row.record.keys)
        return True

    def _sealed(self, row: MemberState, messages: list[bytes], fields: tuple[bytes, ...] = ()) -> bytes:
        seal, payload = self.seal, assemble(self._prefix, messages, fields)
        if row.member_id in seal.peers:
            return seal.seal(row.member_id, payload)
        if row.record is not None:
            seal.add_peer(row.record.keys)
        datagram = seal.seal(row.member_id, payload)
        if self.table.get(row.member_id) is None:
            seal.forget(row.member_id)
        return datagram

    # --- random members

    def random_members(self, count: int, exclude: tuple[MemberId, ...] = ()) -> list[MemberState]:
        """At most ``count`` distinct members at random that are present and not suspect, never ourselves."""
        order, table = self.table.present_ids, self.table
        if len(order) <= 4 * count + 4:
            candidates = [m for m in order if m not in table.suspects and m != self.me.member_id and m not in exclude]
            chosen = self.rng.sample(candidates, min(count, len(candidates)))
        else:
            chosen = []
            for _ in range(8 * count):
                member_id = order[int(self.rng.random() * len(order))]
                if (
                    member_id in table.suspects
                    or member_id == self.me.member_id
                    or member_id in exclude
                    or member_id in chosen
                ):
                    continue
                chosen.append(member_id)
                if len(chosen) == count:
                    break
        return [row for member_id in chosen if (row := table.get(member_id)) is not None]
