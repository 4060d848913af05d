"""Getting in: join, challenge, hello, welcome.

Anyone answers a join, joined or not, with a stateless cookie and what it holds of the newcomer's name; nothing is kept
for a stranger until it has shown the cookie from the address it claims. The welcome holds a few rows and never the
table (full tables cost the one seed of 1000 nodes 167 MB, this 3.4): the newcomer then syncs with members at random.

None of the four can be an old one played again. The newcomer's nonce comes back in the challenge and the welcome, each
taken once; a cookie is good for one hello, and for no longer than its secret, which is replaced every ten seconds and
forgotten with the next. A *who* quotes the end of the datagram it answers. So what a stranger's word makes us send goes
to somebody who receives there, is no longer than what he sent, or both.

Seeds are addresses that are tried for as long as nobody there is a member we hold: starting alone is fine, and so is
everyone starting at once, or a seed that comes back in another life long after.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterable

import msgspec

from rumormill.gossip.lifecycle.flap_damping import FlapDamping
from rumormill.gossip.lifecycle.membership_updates import MembershipUpdates
from rumormill.gossip.lifecycle.own_name import OwnName
from rumormill.gossip.part import Part
from rumormill.gossip.reporting.operator_warnings import address_text
from rumormill.gossip.security.rate_limits import TokenBucket
from rumormill.gossip.security.seal import OVERHEAD, UNKNOWN_RECEIVER
from rumormill.gossip.security.sent_datagrams import MARK_BYTES
from rumormill.gossip.state import MAX_MESSAGE_BYTES, NodeState
from rumormill.gossip.wire import (
    MAX_DATAGRAM,
    Challenge,
    Hello,
    Join,
    KnownInstance,
    SignedRecord,
    UnknownSender,
    Welcome,
)
from rumormill.membership.member_state import MemberState, member_state_of_record_untrusted
from rumormill.membership.record import Address, InvalidRecord, MemberId

FIRST_JITTER = 0.1
FIRST_WAIT, LAST_WAIT, JOINED_WAIT = 0.06, 0.5, 2.0
COOKIE_SECONDS = 10
JOIN_BYTES = 128
MAX_TRANSIENT = 64
WHO_PER_SECOND = 100
WHO_BYTES = OVERHEAD + 16
"""Exactly: no longer than a ping, the shortest thing it answers."""
MAX_SPENT = 16384
UNWELCOME = 8
"""Hellos in a row without a welcome, all of them asked for: some three seconds, and no accident even where a third of
all datagrams is lost."""
LONGEST_PACKET = MAX_DATAGRAM + 48
"""With the headers of IPv6 and UDP: what a path has to carry."""
WELCOME_BYTES, SIGNED_RECORD_BYTES = 32, 67
"""What a welcome, and each record in it, takes beside the records."""


class Seed:
    """An address we ask to let us in. ``tries`` are those left; seeds have no end."""

    __slots__ = ("due", "found", "nonce", "ours", "shown", "tenant", "tries", "unwelcome", "wait")

    def __init__(self, due: float, tries: float) -> None:
        self.due = due
        self.found = False
        """Whether the member that was found there was present when we last looked."""
        self.wait = FIRST_WAIT
        self.tries = tries
        self.nonce = b""
        """Of the join we wait for an answer to; empty once it was answered."""
        self.shown = b""
        """Of the hello we wait for an answer to."""
        self.unwelcome = 0
        """Hellos shown in a row that brought no welcome."""
        self.tenant = UNKNOWN_RECEIVER
        """Half of the member that last answered from there."""
        self.ours = False
        """Whether our own joins came back from there, and nothing else since. Anybody can send them back, so we go on
        asking: who is really there answers."""


class JoinProtocol(Part):
    """Asks our way in, and lets others in."""

    __slots__ = (
        "_contacts",
        "_flap_damping",
        "_ourselves",
        "_own_name",
        "_secret_at",
        "_secrets",
        "_spent",
        "_state",
        "_updates",
        "_whos",
        "deadline",
        "joined",
        "lazy_deadline",
    )

    deadline: float
    lazy_deadline: float

    def __init__(self, state: NodeState, claims: MembershipUpdates, naming: OwnName, damping: FlapDamping) -> None:
        self._state = state
        self._updates = claims
        self._own_name = naming
        self._flap_damping = damping
        self._secrets = (state.token_bytes(32), state.token_bytes(32))
        self._secret_at = state.now
        self._spent: tuple[set[bytes], set[bytes]] = (set(), set())
        """Cookies that have been shown, by the secrets they were made with."""
        self._contacts: dict[Address, Seed] = {}
        self._ourselves = state.me.address
        self._whos = TokenBucket(WHO_PER_SECOND / 2, WHO_PER_SECOND)
        self.deadline = math.inf
        """When the next address is to be asked. Where a seed's member is present, there is no hurry to look again."""
        self.lazy_deadline = math.inf
        """When any address is, in a hurry or not."""
        self.joined = False
        """Whether we have come to hold somebody else's row."""

    @property
    def has_seeds(self) -> bool:
        """Whether there are addresses at which others should be."""
        return any(not contact.ours for contact in self._contacts.values())

    # --- asking

    def set_seeds(self, addresses: Iterable[Address]) -> None:
        """Replace the seeds; one that was known keeps its pace."""
        wanted = [address for address in dict.fromkeys(addresses) if address != self._ourselves]
        transient = {a: c for a, c in self._contacts.items() if c.tries < math.inf}
        kept = {a: self._contacts[a] for a in wanted if a in self._contacts and a not in transient}
        fresh = {
            a: Seed(self._state.now + self._state.rng.random() * FIRST_JITTER, math.inf)
            for a in wanted
            if a not in kept
        }
        self._contacts = {**transient, **kept, **fresh}
        self._rearm()

    def try_address(self, address: Address) -> None:
        """Somebody there does not know us, or is not who we thought: ask now, whatever we asked there before."""
        if address == self._ourselves:
            return
        contact = self._contacts.get(address)
        if contact is not None:
            contact.due = min(contact.due, self._state.now + FIRST_WAIT)
            contact.wait = FIRST_WAIT
            contact.tenant = UNKNOWN_RECEIVER
            contact.found = False
        elif len(self._contacts) < MAX_TRANSIENT:
            self._contacts[address] = Seed(self._state.now, 3)
        self._rearm()

    def tick(self) -> None:
        state = self._state
        if state.now < self.lazy_deadline:
            return
        for address, contact in list(self._contacts.items()):
            if contact.due > state.now:
                continue
            contact.found = contact.tries == math.inf and self._is_present(contact.tenant)
            if contact.found:
                contact.due = state.now + JOINED_WAIT * (0.75 + 0.5 * state.rng.random())
                contact.wait = FIRST_WAIT
                continue
            self._ask(address)
            contact.tries -= 1
            if contact.tries <= 0:
                del self._contacts[address]
                continue
            contact.due = state.now + contact.wait * (0.75 + 0.5 * state.rng.random())
            contact.wait = min(2 * contact.wait, JOINED_WAIT if self.joined else LAST_WAIT)
        self._rearm()

    def restart(self) -> None:
        """After a pause of our own: try at once, patiently again later."""
        for contact in self._contacts.values():
            contact.due = self._state.now + self._state.rng.random() * FIRST_JITTER
            contact.wait = FIRST_WAIT
        self._rearm()

    def _ask(self, address: Address) -> None:
        name = self._state.me.name
        padding = bytes(max(0, JOIN_BYTES - len(name.encode())))
        nonce = self._contacts[address].nonce = self._state.token_bytes(8)
        self._state.send_to_stranger(address, UNKNOWN_RECEIVER, Join(name, nonce, padding))

    def _rearm(self) -> None:
        contacts = self._contacts.values()
        self.lazy_deadline = min((contact.due for contact in contacts), default=math.inf)
        self.deadline = min((contact.due for contact in contacts if not contact.found), default=math.inf)

    def _is_present(self, member_id: MemberId) -> bool:
        row = self._state.table.get(member_id)
        return row is not None and row.present

    def handle_challenge(self, challenge: Challenge, sender: MemberId, source: Address) -> None:
        """Show the cookie and our record, in a generation that fits what is already known of our name."""
        contact = self._contacts.get(source)
        if contact is None or contact.nonce != challenge.nonce:
            self._state.counters["stale_challenges"] += 1
            return
        contact.tenant, contact.ours = sender, False
        contact.shown, contact.nonce = contact.nonce, b""
        contact.unwelcome += 1
        if contact.unwelcome > UNWELCOME and not self.joined:
            self._complain(source)
        self._flap_damping.handle_challenge(challenge)
        self._own_name.choose_generation(challenge.lives)
        me = self._state.me
        hello = Hello(challenge.nonce, challenge.cookie, msgspec.Raw(me.encoded), me.signature)
        self._state.send_to_stranger(source, sender, hello)

    def handle_welcome(self, welcome: Welcome, source: Address) -> None:
        contact = self._contacts.get(source)
        if contact is None or contact.shown != welcome.nonce:
            self._state.counters["stale_welcomes"] += 1
            return
        contact.shown, contact.unwelcome = b"", 0
        for signed in welcome.records:
            self._updates.handle_record_untrusted(bytes(signed.record), signed.signature, source, quietly=True)

    def _complain(self, source: Address) -> None:
        """Somebody holds our key, asks who we are, and does not let us in."""
        advice = (
            "its authority is probably not the one that issued --identity-file"
            if self._state.identity.credential
            else "its pool probably has an authority, and this member no identity: --ca-file and --identity-file"
        )
        text = (
            f"{address_text(source)} answers, and does not let this member in: {advice}; the log there says more "
            f"(a path that drops packets of {LONGEST_PACKET} bytes looks the same)"
        )
        self._state.warn_operator("unwelcome", source, text, ours=True)

    # --- answering

    def handle_join(self, join: Join, sender: MemberId, source: Address) -> None:
        state = self._state
        if sender == state.me.member_id:  # one of our seeds is ourselves, under another address
            contact = self._contacts.get(source)
            if contact is not None and contact.nonce == join.nonce:
                contact.ours = True
            return
        lives = [
            KnownInstance(row.generation, row.instance, row.incarnation, row.liveness, row.pending, row.draining)
            for row in state.table.states_of(join.name)
        ]
        if len(join.padding) + len(join.name.encode()) < JOIN_BYTES:
            state.counters["short_join"] += 1
            return
        cookie = self._cookie(self._fresh_secrets()[0], source, sender, join.nonce)
        state.send_to_stranger(
            source, sender, Challenge(join.nonce, cookie, lives, self._flap_damping.death_ages(join.name))
        )

    def handle_hello_untrusted(self, hello: Hello, sender: MemberId, source: Address) -> None:
        """Admit a newcomer that proved its address, and hand it a few rows to start from."""
        state = self._state
        if not self._spend_cookie(hello, sender, source):
            state.counters["bad_cookie"] += 1
            return
        try:
            row = member_state_of_record_untrusted(bytes(hello.record), hello.signature)
        except InvalidRecord:
            state.counters["invalid_record"] += 1
            return
        if row.member_id != sender or not state.signatures.check_record(row, source, state.now):
            state.counters["invalid_record"] += 1
            return
        self._updates.handle_record_untrusted(row.encoded, row.signature, source)
        if state.table.get(row.member_id) is not None:
            state.seal.add_peer(row.record.keys if row.record else b"")
        self._welcome(row, hello.nonce, source)

    def _welcome(self, row: MemberState, nonce: bytes, source: Address) -> None:
        state = self._state
        held = state.table.states_of(row.name)
        rows = [other for other in held if other.present and other.member_id != row.member_id]
        rows += [state.me, *state.random_members(3, exclude=(row.member_id,))]
        chosen = list({r.member_id: r for r in rows if r.encoded}.values())[:4]
        signed: list[SignedRecord] = []
        room = MAX_MESSAGE_BYTES - WELCOME_BYTES
        for other in chosen:
            size = len(other.encoded) + SIGNED_RECORD_BYTES
            if size <= room:
                room -= size
                signed.append(SignedRecord(msgspec.Raw(other.encoded), other.signature))
        digest, members = state.table.digest & 0xFFFFFFFF, len(state.table.present_ids)
        state.send_to_stranger(source, row.member_id, Welcome(nonce, digest, members, signed))
        self._updates.send_other_lives(row, held)

    def handle_unknown_sender(self, who: UnknownSender, source: Address) -> MemberState | None:
        """We are not known there, or somebody else lives there: introduce ourselves.

        Returns whom the datagram that is so answered was for, if it was for a member that says to live there.
        """
        member_id = self._state.sent_datagrams.take(who.mark, source)
        if member_id is None:
            self._state.counters["stale_who"] += 1
            return None
        self.try_address(source)
        asked = self._state.table.get(member_id)
        return asked if asked is not None and asked.address == source else None

    def send_unknown_sender(self, datagram: bytes, sender: MemberId, source: Address) -> None:
        """Answer a datagram we can do nothing with, at most 100 times a second, and never at greater length."""
        state = self._state
        if len(datagram) < WHO_BYTES or not self._whos.allows(source[0], state.now):
            state.counters["who_suppressed"] += 1
            return
        state.send_to_stranger(source, sender, UnknownSender(datagram[-MARK_BYTES:]))

    def _fresh_secrets(self) -> tuple[bytes, bytes]:
        now = self._state.now
        if now - self._secret_at >= COOKIE_SECONDS:
            old = now - self._secret_at >= 2 * COOKIE_SECONDS
            self._secrets = (self._state.token_bytes(32), self._state.token_bytes(32) if old else self._secrets[0])
            self._spent = (set(), set() if old else self._spent[0])
            self._secret_at = now
        return self._secrets

    def _spend_cookie(self, hello: Hello, sender: MemberId, source: Address) -> bool:
        """Whether a hello shows a cookie of ours, for the first time."""
        for secret, spent in zip(self._fresh_secrets(), self._spent, strict=True):
            if hmac.compare_digest(hello.cookie, self._cookie(secret, source, sender, hello.nonce)):
                if hello.cookie in spent or len(spent) >= MAX_SPENT:
                    return False
                spent.add(hello.cookie)
                return True
        return False

    def _cookie(self, secret: bytes, source: Address, sender: MemberId, nonce: bytes) -> bytes:
        """Proof that somebody receives at an address, good for 10 to 20 seconds, without any memory of them."""
        return hmac.digest(secret, b"|".join((repr(source).encode(), sender, nonce)), "sha256")[:16]
