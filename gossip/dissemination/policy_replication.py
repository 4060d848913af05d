"""Replicating pool policies: they are written at any member and held by all.

A policy is broadcast wide and piggybacked, and it is part of the digest and of the delta sync, beside the rows. There
it has 8 bytes that name its kind and service in place of a member id, and 40 bits of its checksum in place of an
incarnation. The last writer wins (membership/policy.py). This file decides what may be accepted and written.

* Nothing is written before the first sync: a counter that starts from zero would lose to what the pool holds.
* A counter far above our own is refused, but not before the first sync, when our own means nothing yet.
* A body is opaque here. The schema given to this member says which bodies must not spread, and puts one in words.
* With a policy key, only policies that it signed are accepted (Ed25519 over the pool's label and the record).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rumormill.gossip.dissemination.anti_entropy import AntiEntropy
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.lifecycle.join import JoinProtocol
from rumormill.gossip.security.seal import label_hash
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import PolicyMessage
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import (
    InvalidPolicy,
    PolicyRecord,
    PolicySchema,
    SignedPolicy,
    encode_policy,
    policy_untrusted,
    precedence,
)
from rumormill.membership.record import COUNTER_LIMIT, NO_SIGNATURE, MemberId, Signature

MAX_HISTORY = 200
"""Changes remembered, in the order in which this member learned of them."""


class PolicyRefused(ValueError):
    """A policy cannot be written here and now. The text says why and what to do. Nothing was changed."""


class PolicyKey:
    """The key that signs policies, or only its public half, which checks them."""

    def __init__(self, public: Ed25519PublicKey, private: Ed25519PrivateKey | None = None) -> None:
        self._public = public
        self._private = private

    @classmethod
    def signing(cls, secret: bytes) -> PolicyKey:
        """From the 32 bytes of a private key. Raises ValueError for another length."""
        private = Ed25519PrivateKey.from_private_bytes(secret)
        return cls(private.public_key(), private)

    @classmethod
    def checking(cls, public: bytes) -> PolicyKey:
        """From the 32 bytes of a public key. Raises ValueError for another length."""
        return cls(Ed25519PublicKey.from_public_bytes(public))

    @property
    def public(self) -> bytes:
        """The public half, 32 bytes."""
        return self._public.public_bytes_raw()

    @property
    def can_sign(self) -> bool:
        return self._private is not None

    def sign(self, cluster: str, encoded: bytes) -> Signature:
        """Raises :class:`PolicyRefused` without the private half."""
        if self._private is None:
            raise PolicyRefused(
                "policies of this pool are signed, and this sidecar can only check them; ask one with the private key"
            )
        return Signature(self._private.sign(_signed_text(cluster, encoded)))

    def has_signed(self, cluster: str, encoded: bytes, signature: Signature) -> bool:
        """Whether this key signed it, for this pool."""
        try:
            self._public.verify(signature, _signed_text(cluster, encoded))
        except InvalidSignature:
            return False
        return True


def _signed_text(cluster: str, encoded: bytes) -> bytes:
    return b"rumormill policy 1" + label_hash(cluster) + encoded


class PolicyReplication:
    """Writes policies, accepts those of others, and keeps their history."""

    def __init__(
        self,
        state: NodeState,
        broadcast: Broadcast,
        key: PolicyKey | None,
        join: JoinProtocol,
        anti_entropy: AntiEntropy,
        schema: PolicySchema,
    ) -> None:
        self._state = state
        self._broadcast = broadcast
        self._key = key
        self._join = join
        self._anti_entropy = anti_entropy
        self._schema = schema
        self.history: deque[PolicyRecord] = deque(maxlen=MAX_HISTORY)
        """Policies in the order we learned them, each with its writer and the writer's wall-clock time."""

    def restore(self, kept: Iterable[tuple[bytes, bytes]]) -> None:
        """Take over the policies that an earlier instance of ours saved. Anything newer in the pool replaces them."""
        for encoded, signature in kept:
            self._accept(self._read_untrusted(encoded, Signature(signature)), quietly=True)

    def write(self, service: str, body: bytes, at: int) -> PolicyRecord:
        """Make this the pool's policy: an encoded body. ``at`` is wall time in milliseconds, for display.

        Raises :class:`PolicyRefused`.
        """
        state = self._state
        if why := self._why_not_writable():
            raise PolicyRefused(why)
        counter = state.table.policies.counter + 1
        if counter >= COUNTER_LIMIT:
            raise PolicyRefused(
                "the pool's policy counter is exhausted: somebody wrote a policy by other means than a sidecar"
            )
        record = PolicyRecord(service, counter, state.me.name, at, body)
        try:
            self._schema.validate(record)
            encoded = encode_policy(record)
        except InvalidPolicy as error:
            raise PolicyRefused(str(error)) from None
        signature = self._key.sign(state.cluster, encoded) if self._key else NO_SIGNATURE
        policy = policy_untrusted(encoded, signature)
        if state.table.policies.is_full_for(policy):
            raise PolicyRefused(
                "the pool holds the greatest number of policies allowed; so many services are probably a mistake"
            )
        self._store(policy, quietly=False)
        return record

    def _why_not_writable(self) -> str | None:
        """Why we may not write a policy; None if we may. Before a sync, ours would lose to the pool's."""
        if self._state.gone:
            return "this sidecar has left the pool; ask another"
        if self._anti_entropy.completed or not (self._join.joined or self._join.has_seeds):
            return None
        if self._join.joined:
            return "this sidecar has not learned yet what the pool holds; ask again in a moment"
        return (
            "this sidecar has not found its pool: no seed answers; try again when one does, or start it without --join"
        )

    def handle_untrusted(self, message: PolicyMessage, sender: MemberState, *, quietly: bool) -> MemberId | None:
        """Handle a policy from a member; returns the id of the policy, or None if it was no valid one.

        ``quietly`` learns it without passing it on, for what a sync brings.
        """
        policy = self._read_untrusted(bytes(message.record), message.signature)
        if policy is None:
            return None
        held = self._state.table.policies.get(policy.member_id)
        if held is not None and precedence(held) >= precedence(policy):
            if held is not policy and held.checksum != policy.checksum:
                self._send_newer(held, sender)
        else:
            self._accept(policy, quietly=quietly)
        return policy.member_id

    def _read_untrusted(self, encoded: bytes, signature: Signature) -> SignedPolicy | None:
        try:
            policy = policy_untrusted(encoded, signature)
            self._schema.validate(policy.record)
            return policy
        except InvalidPolicy:
            self._state.counters["invalid_policy"] += 1
            return None

    def _accept(self, policy: SignedPolicy | None, *, quietly: bool) -> None:
        """Store a policy if it may be accepted; otherwise count why not."""
        state = self._state
        if policy is None:
            return
        if self._key and not self._key.has_signed(state.cluster, policy.encoded, policy.signature):
            state.counters["policy_unsigned"] += 1
        elif self._anti_entropy.completed and state.table.policies.jumps_too_far(policy):
            state.counters["policy_leap"] += 1
        elif state.table.policies.is_full_for(policy):
            state.counters["policies_full"] += 1
        else:
            self._store(policy, quietly=quietly)

    def _store(self, policy: SignedPolicy, *, quietly: bool) -> None:
        state = self._state
        if not state.table.apply_policy(policy):
            return
        record = policy.record
        self.history.append(record)
        state.record_event("policy", record.writer, f"{self._schema.describe(record)}, written at {record.writer}")
        if not quietly:
            self._broadcast.announce(policy.member_id, wide=True)
        self._anti_entropy.table_changed()

    def _send_newer(self, held: SignedPolicy, sender: MemberState) -> None:
        """The sender holds an older policy: send it the newer one, at most once a period."""
        if self._state.throttle(held.member_id + sender.member_id, "answer", self._state.settings.period):
            self._state.send_encoded(sender, [self._broadcast.encoder.policy(held)])
