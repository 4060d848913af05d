"""The group keys change while the pool runs: install a key everywhere, make it the primary, remove the old one.

What spreads is the whole ring with a version. The greatest (version, digest) holds, so a key that was removed is not
brought back by whoever still has an older ring, and two operators at once end with one ring, not with a mixture. A ring
travels sealed, and only to members whose row is held. The keys of a file that no change has touched yet are version 0,
and are never spread.

No datagram is lost on the way:

* a key becomes the primary, or goes, only after everyone present has been heard to hold the present ring: the *audit*,
  which hands whoever is behind what it lacks (the caller of :meth:`KeyRotation.change` sees to that order);
* what was sealed under a key just removed still opens for two seconds: it may have been on its way;
* whoever speaks under another key than our primary, one we still accept, is answered under that key, our ring first.
  So a member that slept, or starts with an old file, is back with its first exchange if it holds any key still good.

Whoever holds none of them is told so by a *notice*: a bare header, since there is no key to seal it with. Anybody could
have sent one, so it changes nothing but what we say to our own operator. Both sides of such a quarrel send notices;
which of them is to change its key is told by the ring's version, which stands in it, else by whom more agree with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.part import Part
from rumormill.gossip.reporting.operator_warnings import TELL_EVERY, address_text
from rumormill.gossip.security.keyring import MAX_KEYS, KeyRing, key_id_of, key_name_of, ring_digest
from rumormill.gossip.security.seal import HEADER
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import KeyRingReport, KeyRingUpdate, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Address, MemberId

LINGER = 2.0
"""Seconds for which a removed key still opens what was under way. Larger: a stolen key is good for longer."""
COMPARE_EVERY = 10.0
"""One member is told our version each so many seconds: finds those who missed a removal. Larger: found later."""
ASK_EVERY, ASKED_AT_ONCE, ASK_AGAIN = 0.02, 32, 0.2
"""Pace of an audit: its steps, members asked in each, and when one that has not answered is asked again."""
AUDIT_SECONDS = 15.0
"""An audit nobody looks at any more ends."""
MAX_AHEAD = 2**20
"""A version further above ours than this is no rotation; it is refused and counted."""
NOTICES_PER_SECOND = 10
NOTICE_AFTER = 1.0
"""Seconds for which what we cannot open must have kept coming before we say so."""
QUARREL, MAX_REJECTED_BY = 5.0, 64
"""Seconds for which it counts who rejects our key and who is heard, and how many of the former."""
NEVER = -math.inf
NOTICE_SEALED, NOTICE_PLAIN = 0x1E, 0x1F
"""Kinds of header, in wire version 1: "this cannot be opened here, where all is sealed (or nothing is)"."""


@dataclass(frozen=True, slots=True)
class KeyAudit:
    """Who holds which ring, as far as has been heard."""

    version: int
    primary: str
    holders: dict[str, int]
    """Key id to how many present members hold it, ourselves included; every key anybody holds."""
    members: int
    unanswered: tuple[str, ...]
    """Names of present members not heard from yet."""
    behind: tuple[str, ...]
    """Names of those that hold another ring than ours."""

    @property
    def settled(self) -> bool:
        """Whether everyone present holds our ring."""
        return not self.unanswered and not self.behind


class KeyRotation(Part):
    """Our ring, what others hold, and how the two come together."""

    __slots__ = (
        "_asked",
        "_audit",
        "_audit_until",
        "_broadcast",
        "_lingering",
        "_next_ask",
        "_next_compare",
        "_notices",
        "_notices_at",
        "_rejected_by",
        "_removed",
        "_state",
        "_unopened_first",
        "_unopened_last",
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
        self._lingering: dict[bytes, float] = {}
        self._next_compare = state.now + COMPARE_EVERY if version else math.inf
        self._audit: dict[MemberId, KeyRingReport] = {}
        self._asked: dict[MemberId, float] = {}
        self._audit_until = NEVER
        self._next_ask = math.inf
        self.lazy_deadline = math.inf
        self._notices = float(NOTICES_PER_SECOND)
        self._notices_at = state.now
        self._unopened_first = self._unopened_last = NEVER
        self._removed: dict[int, str] = {}
        """What the keys are called that have gone from our ring, by their id on the wire."""
        self._rejected_by: dict[Address, float] = {}
        """Who lately said that it cannot open what we seal, and when."""
        self._rearm()

    def _rearm(self) -> None:
        self.lazy_deadline = min(self._next_compare, self._next_ask, *self._lingering.values())

    def tick(self) -> None:
        state = self._state
        if state.now < self.lazy_deadline:
            return
        if any(until <= state.now for until in self._lingering.values()):
            self._lingering = {key: until for key, until in self._lingering.items() if until > state.now}
            self._use()
        if state.now >= self._next_ask:
            self._ask()
        if state.now >= self._next_compare:
            self._next_compare = state.now + COMPARE_EVERY * (0.75 + 0.5 * state.rng.random())
            for peer in state.random_members(1):
                state.send(peer, self._held(ask=False))
        self._rearm()

    # --- changing

    def change(self, ring: KeyRing) -> None:
        """Make this ring everyone's. Whoever calls has audited before, where a key is promoted or removed."""
        self._adopt(self.version + 1, ring, "by its own sidecar")

    def handle_ring_update(self, message: KeyRingUpdate, sender: MemberState) -> None:
        """Somebody's ring: the greater one holds. One that has no key in common with ours is none of this pool's."""
        state, ring = self._state, self.ring
        too_far = message.version > self.version + MAX_AHEAD
        if ring is None or not message.version or too_far or not set(message.keys) & set(ring.keys):
            state.counters["keys_refused"] += 1
            return
        theirs = (message.version, ring_digest(message.version, message.keys))
        if theirs > self._stamp and len(set(message.keys)) == len(message.keys):
            self._adopt(message.version, KeyRing(tuple(message.keys)), f"by way of {sender.name}")
            state.send(sender, self._held(ask=False))
        elif theirs < self._stamp:
            self.send_ring(sender)

    def handle_ring_report(self, held: KeyRingReport, sender: MemberState) -> None:
        """Which ring somebody holds. Who is behind gets ours; who is ahead is shown that we are behind."""
        state = self._state
        if self.ring is None:
            return
        if sender.member_id in self._asked:
            self._audit[sender.member_id] = held
        theirs = (held.version, held.digest)
        if theirs < self._stamp:
            self.send_ring(sender)
        if held.ask or (theirs > self._stamp and held.version <= self.version + MAX_AHEAD):
            state.send(sender, self._held(ask=False))

    def send_ring(self, peer: MemberState) -> None:
        """Send our ring, half a period after the last time at the earliest. Keys as they came from a file stay here."""
        state = self._state
        if self.version and state.throttle(peer.member_id, "keys", state.settings.period / 2):
            state.send(peer, self._keys())

    def _adopt(self, version: int, ring: KeyRing, how: str) -> None:
        state, before = self._state, self.ring
        for key in before.keys if before else ():
            if key not in ring.keys:
                self._lingering[key] = state.now + LINGER
                self._removed[key_id_of(key)] = key_name_of(key)
        for key in ring.keys:
            self._lingering.pop(key, None)
            self._removed.pop(key_id_of(key), None)
        self.version = version
        self.ring = ring
        self._next_compare = state.now + COMPARE_EVERY
        self._rearm()
        state.record_event(
            "keys", state.me.name, f"{state.me.name} holds key ring {version} ({', '.join(ring.names)}), {how}"
        )
        news = encode_message(self._keys())
        for peer in self._broadcast.push_targets(self._broadcast.wide_fanout()):
            state.send_encoded(peer, [news])  # still under the former primary, which they are sure to hold
        self._use()

    def _use(self) -> None:
        """Open with the ring and what lingers; seal with the primary."""
        ring = self.ring
        if ring is not None:
            spare = MAX_KEYS - len(ring.keys)
            lingering = list(self._lingering)[-spare:] if spare else []
            self._state.seal.set_keyring(KeyRing((*ring.keys, *lingering)))

    # --- who speaks under which key

    @contextmanager
    def replying_under(self, key_id: int, row: MemberState | None) -> Iterator[None]:
        """While a datagram of this key id is being handled: where that is an older key of ours, answer under it."""
        ring = self.ring
        older = next((key for key in ring.keys if key_id_of(key) == key_id), None) if ring else None
        if ring is None or older is None or older == ring.primary:
            yield  # in plaintext, as ever, or under a key that lingers, which nobody else may still accept
            return
        self._state.seal.set_keyring(ring.with_primary(older))
        if row is not None:
            self.send_ring(row)
        try:
            yield
        finally:
            self._use()

    # --- who holds what

    def audit(self) -> KeyAudit:
        """Begin to ask everyone, or go on; what is known so far."""
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
        return KeyAudit(self.version, key_name_of(ring.primary), holders, members, tuple(unanswered), tuple(behind))

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
            state.send(row, self._held(ask=True))
            room -= 1
            if not room:
                return

    # --- what cannot be opened

    def handle_undecryptable(self, reason: str, data: bytes, source: Address) -> None:
        """A datagram of our pool that we have no key for, or that is sealed where we are not: say so, to both sides."""
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
        if reason not in _UNOPENED or not self._persists() or not self._may_notice():
            return
        ring = self.ring
        notice = NOTICE_SEALED if ring else NOTICE_PLAIN
        ours = key_id_of(ring.primary) if ring else 0
        self._state.post_raw(source, HEADER.pack(notice, ours, label, self._state.me.member_id, sender, self.version))
        peer, home = self._peer(sender, source)
        removed = reason == "unknown_key" and key_id in self._removed
        text = self._of_a_removed_key(peer, key_id) if removed else _UNOPENED[reason].format(where=peer, key=key_id)
        self._state.warn_operator("seal", home, text)

    def _peer(self, sender: MemberId, source: Address) -> tuple[str, Address]:
        """Who it says to be, in words, and where that member lives; another may have handed on what it sealed."""
        row = self._state.table.get(sender)
        if row is None or row.address is None:
            return address_text(source), source
        way = "" if row.address == source else f" (by way of {address_text(source)})"
        return f"{row.name} at {address_text(row.address)}{way}", row.address

    def _of_a_removed_key(self, peer: str, key_id: int) -> str:
        present = ", ".join(self.ring.names) if self.ring else ""
        return (
            f"{peer} seals with the key {self._removed[key_id]}, which was removed here: start it again with a "
            f"--key-file that holds a key of the pool ({present})"
        )

    def _persists(self) -> bool:
        """Whether such datagrams keep coming: old ones, found in the socket after a sleep of ours, mean nothing."""
        now = self._state.now
        if now - self._unopened_last > TELL_EVERY:
            self._unopened_first = now
        self._unopened_last = now
        return now - self._unopened_first >= NOTICE_AFTER

    def _may_notice(self) -> bool:
        now = self._state.now
        self._notices = min(NOTICES_PER_SECOND, self._notices + (now - self._notices_at) * NOTICES_PER_SECOND)
        self._notices_at = now
        if self._notices < 1:
            return False
        self._notices -= 1
        return True

    def _hear_notice(self, kind: int, key_id: int, version: int, peer: str, source: Address) -> None:
        """Somebody cannot open what we seal. ``version`` is that of its ring, ``key_id`` of the key it seals with."""
        state, ring = self._state, self.ring
        state.counters["notices"] += 1
        outvoted = self._outvoted(source)
        if kind == NOTICE_PLAIN:
            if ring is not None:
                state.warn_operator("seal", source, _UNOPENED["plaintext"].format(where=peer), ours=outvoted)
        elif ring is None:
            state.warn_operator("seal", source, _UNOPENED["sealed"].format(where=peer), ours=outvoted)
        elif key_id in self._removed:
            state.warn_operator("seal", source, self._of_a_removed_key(peer, key_id))
        elif self._holds_a_later_ring(version, outvoted):
            text = (
                f"{peer} does not accept the key this member seals with; its own begins with {key_id:02x}, here are "
                f"{', '.join(ring.names)}: give --key-file a key the pool still accepts"
            )
            state.warn_operator("behind", state.identity.address, text, ours=True)
        else:
            state.warn_operator("seal", source, _UNOPENED["unknown_key"].format(where=peer, key=key_id))

    def _holds_a_later_ring(self, version: int, outvoted: bool) -> bool:
        """Whether the pool's ring is rather theirs than ours. Of one version, or of none, being as a key file had it,
        the more are right."""
        if 0 in (version, self.version) or version == self.version:
            return outvoted
        return self.version < version <= self.version + MAX_AHEAD

    def _outvoted(self, source: Address) -> bool:
        """Whether more members reject how we seal than can be heard: then it is for us to change."""
        state, now = self._state, self._state.now
        lately = {address: at for address, at in self._rejected_by.items() if now - at < QUARREL}
        if len(lately) < MAX_REJECTED_BY:
            lately[source] = now
        self._rejected_by = lately
        return len(lately) > sum(state.heard_within(row.member_id, QUARREL) for row in self._others())

    # --- our ring in messages

    @property
    def _stamp(self) -> tuple[int, bytes]:
        ring = self.ring
        return (self.version, ring_digest(self.version, ring.keys) if ring else b"")

    def _keys(self) -> KeyRingUpdate:
        ring = self.ring
        return KeyRingUpdate(self.version, list(ring.keys) if ring else [])

    def _held(self, *, ask: bool) -> KeyRingReport:
        ring = self.ring
        names = [bytes.fromhex(name) for name in ring.names] if ring else []
        return KeyRingReport(*self._stamp, names, ask)


_UNOPENED = {
    "unknown_key": "{where} seals with a key this member does not accept (it begins with {key:02x})",
    "sealed": "{where} is sealed, and this member gossips in plaintext: start it with the pool's --key-file",
    "plaintext": "{where} gossips in plaintext, and this member is sealed: start that one with the pool's --key-file",
}
