"""Rotating the group keys of a running pool: install a key everywhere, make it the primary, remove the old one.

Members exchange the whole ring with a version. The greatest (version, digest) wins. So a removed key is not brought
back by a member with an older ring, and two operators at once end with one ring, not with a mixture. A ring is always
sent sealed, and only to members whose row we hold. Keys from a file that no change has touched yet are version 0, and
are never sent.

No datagram is lost during a rotation:

* A key becomes the primary, or is removed, only after all present members have reported the present ring. That is the
  *audit*, which also sends the ring to members that lack it. The caller of :meth:`KeyRotation.change` audits first.
* A datagram sealed under a key just removed still opens for two seconds, because it may have been in transit.
* A member that uses an older key of our ring is answered under that key, and gets our ring first. So a member that
  slept, or starts with an old file, is back after its first exchange if it holds any key that is still accepted.

A member that holds no accepted key gets a *notice*: a bare header, because there is no key to seal it with. Anybody
could have sent it, so it only changes what we tell our own operator. Both sides of a mismatch send notices. Which side
must change its key is decided by the ring version in the notice, or else by which key more members accept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.part import Part
from rumormill.gossip.reporting.operator_warnings import WARN_EVERY, address_text
from rumormill.gossip.security.key_audit import KeyAudit
from rumormill.gossip.security.keyring import MAX_KEYS, KeyRing, ring_digest
from rumormill.gossip.security.seal import HEADER
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import KIND_BY_TYPE, KeyRingReport, KeyRingUpdate, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Address, MemberId

REMOVED_KEY_GRACE = 2.0
"""Seconds for which a removed key still opens datagrams in transit. Larger: a stolen key works for longer."""
COMPARE_EVERY = 10.0
"""Seconds between reports of our version to one member: finds members that missed a change. Larger: later."""
ASK_EVERY, ASKED_AT_ONCE, ASK_AGAIN = 0.02, 32, 0.2
"""Pace of an audit: seconds between steps, members asked in each, and seconds until a member is asked again."""
AUDIT_SECONDS = 15.0
"""Seconds after which an audit ends that nobody looks at any more."""
MAX_AHEAD = 2**20
"""A version further above ours than this is refused and counted."""
NOTICES_PER_SECOND = 10
NOTICE_AFTER = 1.0
"""Seconds for which such datagrams must have kept coming before we send a notice."""
REJECTION_WINDOW, MAX_REJECTED_BY = 5.0, 64
"""Seconds for which a rejection of our key counts, and a sign of life; and how many rejections are remembered."""
NEVER = -math.inf
NOTICE_SEALED, NOTICE_PLAIN = 0x1E, 0x1F
"""Kinds of header in wire version 1. A sealed, or a plaintext, member says that it cannot open a datagram."""


class KeyRotation(Part):
    """Holds our ring, knows those of others, and brings them together."""

    __slots__ = (
        "_asked",
        "_audit",
        "_audit_until",
        "_broadcast",
        "_mismatch_last",
        "_mismatch_since",
        "_next_ask",
        "_next_compare",
        "_notices",
        "_notices_at",
        "_rejected_by",
        "_removed_keys",
        "_removed_names",
        "_state",
        "lazy_deadline",
        "ring",
        "version",
    )

    lazy_deadline: float

    def __init__(self, state: NodeState, spread: Broadcast, ring: KeyRing | None, version: int) -> None:
        self._state = state
        self._broadcast = spread
        self.ring = ring
        """The keys we accept, the primary first; None in plaintext."""
        self.version = version
        self._removed_keys: dict[bytes, float] = {}
        self._next_compare = state.now + COMPARE_EVERY if version else math.inf
        self._audit: dict[MemberId, KeyRingReport] = {}
        self._asked: dict[MemberId, float] = {}
        self._audit_until = NEVER
        self._next_ask = math.inf
        self.lazy_deadline = math.inf
        self._notices = float(NOTICES_PER_SECOND)
        self._notices_at = state.now
        self._mismatch_since = self._mismatch_last = NEVER
        self._removed_names: dict[int, str] = {}
        """The names of keys removed from our ring, by their id on the wire."""
        self._rejected_by: dict[Address, float] = {}
        """Addresses that recently said that they cannot open our datagrams, and when."""
        self._rearm()

    @property
    def removed_keys(self) -> tuple[bytes, ...]:
        """Keys that were just removed and still open datagrams in transit."""
        return tuple(self._removed_keys)

    def _rearm(self) -> None:
        self.lazy_deadline = min(self._next_compare, self._next_ask, *self._removed_keys.values())

    def tick(self) -> None:
        state = self._state
        if state.now < self.lazy_deadline:
            return
        if any(until <= state.now for until in self._removed_keys.values()):
            self._removed_keys = {key: until for key, until in self._removed_keys.items() if until > state.now}
            self._apply_to_seal()
        if state.now >= self._next_ask:
            self._ask()
        if state.now >= self._next_compare:
            self._next_compare = state.now + COMPARE_EVERY * (0.75 + 0.5 * state.rng.random())
            for peer in state.random_members(1):
                state.send(peer, self._ring_report(ask=False))
        self._rearm()

    # --- changing

    def change(self, ring: KeyRing) -> None:
        """Make this the ring of all members. The caller has audited before it promotes or removes a key."""
        self._adopt(self.version + 1, ring, "changed at this sidecar")

    def handle_ring_update(self, message: KeyRingUpdate, sender: MemberState) -> None:
        """A member sends its ring: the greater one wins. A ring without a key in common with ours is refused."""
        state, ring = self._state, self.ring
        too_far = message.version > self.version + MAX_AHEAD
        if ring is None or not message.version or too_far or not set(message.keys) & set(ring.keys):
            state.counters["keys_refused"] += 1
            return
        theirs = (message.version, ring_digest(message.version, message.keys))
        if theirs > self._stamp and len(set(message.keys)) == len(message.keys):
            self._adopt(message.version, KeyRing(tuple(message.keys)), f"learned from {sender.name}")
            state.send(sender, self._ring_report(ask=False))
        elif theirs < self._stamp:
            self.send_ring(sender)

    def handle_ring_report(self, held: KeyRingReport, sender: MemberState) -> None:
        """A member reports its ring. If it is behind, it gets ours. If it is ahead, we show it that we are behind."""
        state = self._state
        if self.ring is None:
            return
        if sender.member_id in self._asked:
            self._audit[sender.member_id] = held
        theirs = (held.version, held.digest)
        if theirs < self._stamp:
            self.send_ring(sender)
        if held.ask or (theirs > self._stamp and held.version <= self.version + MAX_AHEAD):
            state.send(sender, self._ring_report(ask=False))

    def send_ring(self, peer: MemberState) -> None:
        """Send our ring, at most twice a period for each member. Keys that came from a file only are not sent."""
        state = self._state
        if self.version and state.throttle(peer.member_id, "keys", state.settings.period / 2):
            state.send(peer, self._ring_update())

    def _adopt(self, version: int, ring: KeyRing, how: str) -> None:
        state, before = self._state, self.ring
        for key, key_id, name in zip(before.keys, before.ids, before.names, strict=True) if before else ():
            if key not in ring.keys:
                self._removed_keys[key] = state.now + REMOVED_KEY_GRACE
                self._removed_names[key_id] = name
        for key, key_id in zip(ring.keys, ring.ids, strict=True):
            self._removed_keys.pop(key, None)
            self._removed_names.pop(key_id, None)
        self.version = version
        self.ring = ring
        self._next_compare = state.now + COMPARE_EVERY
        self._rearm()
        state.record_event(
            "keys", state.me.name, f"{state.me.name} holds key ring {version} ({', '.join(ring.names)}), {how}"
        )
        news = encode_message(self._ring_update())
        for peer in self._broadcast.broadcast_targets(self._broadcast.wide_fanout()):
            state.send_encoded(peer, [news])  # still under the old primary, which they all hold
        self._apply_to_seal()

    def _apply_to_seal(self) -> None:
        """Open with the ring and the keys just removed; seal with the primary."""
        ring = self.ring
        if ring is not None:
            spare = MAX_KEYS - len(ring.keys)
            removed_keys = list(self._removed_keys)[-spare:] if spare else []
            self._state.seal.set_keyring(KeyRing((*ring.keys, *removed_keys)))

    # --- replies under older keys

    @contextmanager
    def replying_under(self, key_id: int, row: MemberState | None) -> Iterator[None]:
        """While handling a datagram with this key id: if that is an older key of our ring, reply under it."""
        ring = self.ring
        older = (
            next((key for key, own in zip(ring.keys, ring.ids, strict=True) if own == key_id), None) if ring else None
        )
        if ring is None or older is None or older == ring.primary:
            yield  # in plaintext, under the primary, or under a removed key, which nobody else may still accept
            return
        self._state.seal.set_keyring(ring.with_primary(older))
        if row is not None:
            self.send_ring(row)
        try:
            yield
        finally:
            self._apply_to_seal()

    # --- the audit

    def audit(self) -> KeyAudit:
        """Start to ask all members, or continue; returns what is known so far."""
        state = self._state
        if self.ring is None:
            return KeyAudit(0, "", {}, 0, (), ())
        if state.now >= self._audit_until:
            self._audit.clear()
            self._asked.clear()
            self._next_ask = state.now
            self._rearm()
        self._audit_until = state.now + AUDIT_SECONDS
        return self._report(self.ring)

    def _others(self) -> list[MemberState]:
        table, me = self._state.table, self._state.me
        return [
            row
            for member_id in table.present_ids
            if member_id != me.member_id and (row := table.get(member_id)) is not None
        ]

    def _report(self, ring: KeyRing) -> KeyAudit:
        holders = dict.fromkeys(ring.names, 1)
        unanswered, behind = [], []
        others = self._others()
        for row in others:
            held = self._audit.get(row.member_id)
            if held is None:
                unanswered.append(row.name)
                continue
            for name in dict.fromkeys(held.names):
                holders[name.hex()] = holders.get(name.hex(), 0) + 1
            if (held.version, held.digest) != self._stamp:
                behind.append(row.name)
        members = len(others) + 1
        return KeyAudit(self.version, ring.names[0], holders, members, tuple(unanswered), tuple(behind))

    def _ask(self) -> None:
        state = self._state
        if state.now >= self._audit_until:
            self._next_ask = math.inf
            return
        self._next_ask = state.now + ASK_EVERY
        room = ASKED_AT_ONCE
        for row in self._others():
            held = self._audit.get(row.member_id)
            if held is not None and (held.version, held.digest) == self._stamp:
                continue
            if state.now - self._asked.get(row.member_id, NEVER) < ASK_AGAIN:
                continue
            self._asked[row.member_id] = state.now
            state.send(row, self._ring_report(ask=True))
            room -= 1
            if not room:
                return

    # --- datagrams that cannot be opened

    def handle_undecryptable(self, reason: str, data: bytes, source: Address) -> None:
        """A datagram of our pool that we have no key for, or where one side is in plaintext: tell both sides."""
        if len(data) < HEADER.size:
            return
        kind, key_id, label, sender, receiver, version = HEADER.unpack_from(data)
        if label != self._state.seal.label:
            if reason == "label":
                self._state.warn_operator(
                    "label",
                    source,
                    f"{address_text(source)} is of another pool: give it this one's --cluster, "
                    "or other seeds to --join",
                )
            return
        if kind in (NOTICE_PLAIN, NOTICE_SEALED):
            if receiver == self._state.me.member_id and len(data) == HEADER.size:
                self._hear_notice(kind, key_id, version, self._peer(sender, source)[0], source)
            return
        if reason not in _SEAL_MISMATCH or not self._is_persistent() or not self._may_notice():
            return
        ring = self.ring
        notice = NOTICE_SEALED if ring else NOTICE_PLAIN
        ours = ring.ids[0] if ring else 0
        header = HEADER.pack(notice, ours, label, self._state.me.member_id, sender, self.version)
        self._state.post_raw(source, header, KIND_BY_TYPE[KeyRingReport])
        peer, home = self._peer(sender, source)
        removed = reason == "unknown_key" and key_id in self._removed_names
        text = (
            self._of_a_removed_key(peer, key_id) if removed else _SEAL_MISMATCH[reason].format(where=peer, key=key_id)
        )
        self._state.warn_operator("seal", home, text)

    def _peer(self, sender: MemberId, source: Address) -> tuple[str, Address]:
        """The member that a datagram names as its sender, in words, and its address. Another may have relayed it."""
        row = self._state.table.get(sender)
        if row is None or row.address is None:
            return address_text(source), source
        way = "" if row.address == source else f" (relayed by {address_text(source)})"
        return f"{row.name} at {address_text(row.address)}{way}", row.address

    def _of_a_removed_key(self, peer: str, key_id: int) -> str:
        present = ", ".join(self.ring.names) if self.ring else ""
        return (
            f"{peer} seals with the key {self._removed_names[key_id]}, which was removed here: restart it with a "
            f"--key-file that holds a key of the pool ({present})"
        )

    def _is_persistent(self) -> bool:
        """Whether such datagrams keep coming. Old ones that waited in the socket while we slept mean nothing."""
        now = self._state.now
        if now - self._mismatch_last > WARN_EVERY:
            self._mismatch_since = now
        self._mismatch_last = now
        return now - self._mismatch_since >= NOTICE_AFTER

    def _may_notice(self) -> bool:
        now = self._state.now
        self._notices = min(NOTICES_PER_SECOND, self._notices + (now - self._notices_at) * NOTICES_PER_SECOND)
        self._notices_at = now
        if self._notices < 1:
            return False
        self._notices -= 1
        return True

    def _hear_notice(self, kind: int, key_id: int, version: int, peer: str, source: Address) -> None:
        """A node cannot open our datagrams. ``version`` is that of its ring, ``key_id`` that of its primary key."""
        state, ring = self._state, self.ring
        state.counters["notices"] += 1
        outvoted = self._is_outvoted(source)
        if kind == NOTICE_PLAIN:
            if ring is not None:
                state.warn_operator("seal", source, _SEAL_MISMATCH["plaintext"].format(where=peer), ours=outvoted)
        elif ring is None:
            state.warn_operator("seal", source, _SEAL_MISMATCH["sealed"].format(where=peer), ours=outvoted)
        elif key_id in self._removed_names:
            state.warn_operator("seal", source, self._of_a_removed_key(peer, key_id))
        elif self._holds_a_later_ring(version, outvoted):
            text = (
                f"{peer} does not accept the key this member seals with: its own key begins with {key_id:02x}. This "
                f"member holds {', '.join(ring.names)}. Put a key that the pool still accepts into --key-file"
            )
            state.warn_operator("behind", state.identity.address, text, ours=True)
        else:
            state.warn_operator("seal", source, _SEAL_MISMATCH["unknown_key"].format(where=peer, key=key_id))

    def _holds_a_later_ring(self, version: int, outvoted: bool) -> bool:
        """Whether the pool's ring is probably theirs: it is the later version, or else more members accept it."""
        if 0 in (version, self.version) or version == self.version:
            return outvoted
        return self.version < version <= self.version + MAX_AHEAD

    def _is_outvoted(self, source: Address) -> bool:
        """Whether more members reject our key than we hear members: then we must change our key."""
        state, now = self._state, self._state.now
        lately = {address: at for address, at in self._rejected_by.items() if now - at < REJECTION_WINDOW}
        if len(lately) < MAX_REJECTED_BY:
            lately[source] = now
        self._rejected_by = lately
        return len(lately) > sum(state.heard_within(row.member_id, REJECTION_WINDOW) for row in self._others())

    # --- our ring in messages

    @property
    def _stamp(self) -> tuple[int, bytes]:
        ring = self.ring
        return (self.version, ring.digest(self.version) if ring else b"")

    def _ring_update(self) -> KeyRingUpdate:
        ring = self.ring
        return KeyRingUpdate(self.version, list(ring.keys) if ring else [])

    def _ring_report(self, *, ask: bool) -> KeyRingReport:
        ring = self.ring
        names = [bytes.fromhex(name) for name in ring.names] if ring else []
        return KeyRingReport(*self._stamp, names, ask)


_SEAL_MISMATCH = {
    "unknown_key": "{where} seals with a key this member does not accept (it begins with {key:02x})",
    "sealed": "{where} is sealed, and this member gossips in plaintext: start it with the pool's --key-file",
    "plaintext": "{where} gossips in plaintext, and this member is sealed: start that one with the pool's --key-file",
}
