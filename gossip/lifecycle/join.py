"""Joining the pool, and letting others join: join, challenge, hello, welcome.

Every node, joined or not, answers a join with a stateless cookie and what it holds of the newcomer's name. It stores
nothing for a stranger until the stranger has shown the cookie from the address it claims. The welcome holds a few rows
and never the table: the newcomer then syncs with random members. (With full tables, the only seed of 1000 nodes sent
167 MB; with this it sends 3.4 MB.)

None of the four messages can be replayed. The newcomer's nonce comes back in the challenge and in the welcome, and
each is accepted once. A cookie is good for one hello. It expires with its secret, which is replaced every ten seconds
and kept for ten more. An UnknownSender message quotes the end of the datagram that it answers. So a reply to a stranger
goes to an address where the stranger receives, or is no longer than what the stranger sent, or both.

Seeds are tried for as long as no member that we hold lives there. So a pool may start with one node or with all at
once, and a seed may come back much later in another instance.
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
UNKNOWN_SENDER_PER_SECOND = 100
UNKNOWN_SENDER_BYTES = OVERHEAD + 16
"""The exact size: no longer than a ping, the shortest datagram that it answers."""
MAX_USED_COOKIES = 16384
MAX_UNANSWERED_HELLOS = 8
"""Hellos in a row, each after a challenge, without a welcome. That takes some three seconds. It is no accident, even
where a third of all datagrams is lost."""
LONGEST_PACKET = MAX_DATAGRAM + 48
"""Bytes with the headers of IPv6 and UDP: what a path has to carry."""
WELCOME_BYTES, SIGNED_RECORD_BYTES = 32, 67
"""Bytes of a welcome, and of each record in it, in addition to the encoded records."""


class Seed:
    """An address at which we try to join. ``tries`` are those left: infinite for a configured seed."""

    __slots__ = (
        "hello_nonce",
        "is_self",
        "join_nonce",
        "member_id",
        "next_at",
        "present",
        "tries",
        "unanswered_hellos",
        "wait",
    )

    def __init__(self, due: float, tries: float) -> None:
        self.next_at = due
        self.present = False
        """Whether the member that lives there was present when we last looked."""
        self.wait = FIRST_WAIT
        self.tries = tries
        self.join_nonce = b""
        """The nonce of the join that waits for a challenge; empty once the challenge came."""
        self.hello_nonce = b""
        """The nonce of the hello that waits for a welcome."""
        self.unanswered_hellos = 0
        """Hellos in a row that brought no welcome."""
        self.member_id = UNKNOWN_RECEIVER
        """The member that last answered from there."""
        self.is_self = False
        """Whether our own joins came back from there, and nothing else since. Anybody can send them back, so we go on
        asking: a member that really lives there answers."""


class JoinProtocol(Part):
    """Joins us to the pool, and lets others join."""

    __slots__ = (
        "_flap_damping",
        "_own_address",
        "_own_name",
        "_secret_at",
        "_secrets",
        "_seeds",
        "_state",
        "_unknown_sender_limit",
        "_updates",
        "_used_cookies",
        "deadline",
        "joined",
        "lazy_deadline",
    )

    deadline: float
    lazy_deadline: float

    def __init__(
        self, state: NodeState, updates: MembershipUpdates, own_name: OwnName, flap_damping: FlapDamping
    ) -> None:
        self._state = state
        self._updates = updates
        self._own_name = own_name
        self._flap_damping = flap_damping
        self._secrets = (state.token_bytes(32), state.token_bytes(32))
        self._secret_at = state.now
        self._used_cookies: tuple[set[bytes], set[bytes]] = (set(), set())
        """Cookies that have been used, for each of the two secrets."""
        self._seeds: dict[Address, Seed] = {}
        self._own_address = state.me.address
        self._unknown_sender_limit = TokenBucket(UNKNOWN_SENDER_PER_SECOND / 2, UNKNOWN_SENDER_PER_SECOND)
        self.deadline = math.inf
        """When we must ask the next address. Where a seed's member is present, looking again can wait."""
        self.lazy_deadline = math.inf
        """When we may look at any address again, urgent or not."""
        self.joined = False
        """Whether we hold the row of any other member, or have held one."""

    @property
    def has_seeds(self) -> bool:
        """Whether we have addresses at which other members should be."""
        return any(not seed.is_self for seed in self._seeds.values())

    # --- asking

    def set_seeds(self, addresses: Iterable[Address]) -> None:
        """Replace the seeds. A seed that we know already keeps its schedule."""
        wanted = [address for address in dict.fromkeys(addresses) if address != self._own_address]
        transient = {a: c for a, c in self._seeds.items() if c.tries < math.inf}
        kept = {a: self._seeds[a] for a in wanted if a in self._seeds and a not in transient}
        fresh = {
            a: Seed(self._state.now + self._state.rng.random() * FIRST_JITTER, math.inf)
            for a in wanted
            if a not in kept
        }
        self._seeds = {**transient, **kept, **fresh}
        self._rearm()

    def try_address(self, address: Address) -> None:
        """The member at an address does not know us, or is another than we thought: join there now."""
        if address == self._own_address:
            return
        seed = self._seeds.get(address)
        if seed is not None:
            seed.next_at = min(seed.next_at, self._state.now + FIRST_WAIT)
            seed.wait = FIRST_WAIT
            seed.member_id = UNKNOWN_RECEIVER
            seed.present = False
        elif len(self._seeds) < MAX_TRANSIENT:
            self._seeds[address] = Seed(self._state.now, 3)
        self._rearm()

    def tick(self) -> None:
        state = self._state
        if state.now < self.lazy_deadline:
            return
        for address, seed in list(self._seeds.items()):
            if seed.next_at > state.now:
                continue
            seed.present = seed.tries == math.inf and self._is_present(seed.member_id)
            if seed.present:
                seed.next_at = state.now + JOINED_WAIT * (0.75 + 0.5 * state.rng.random())
                seed.wait = FIRST_WAIT
                continue
            self._ask(address)
            seed.tries -= 1
            if seed.tries <= 0:
                del self._seeds[address]
                continue
            seed.next_at = state.now + seed.wait * (0.75 + 0.5 * state.rng.random())
            seed.wait = min(2 * seed.wait, JOINED_WAIT if self.joined else LAST_WAIT)
        self._rearm()

    def restart(self) -> None:
        """After a pause of our own: ask every address at once, then back off again."""
        for seed in self._seeds.values():
            seed.next_at = self._state.now + self._state.rng.random() * FIRST_JITTER
            seed.wait = FIRST_WAIT
        self._rearm()

    def _ask(self, address: Address) -> None:
        name = self._state.me.name
        padding = bytes(max(0, JOIN_BYTES - len(name.encode())))
        nonce = self._seeds[address].join_nonce = self._state.token_bytes(8)
        self._state.send_to_stranger(address, UNKNOWN_RECEIVER, Join(name, nonce, padding))

    def _rearm(self) -> None:
        seeds = self._seeds.values()
        self.lazy_deadline = min((seed.next_at for seed in seeds), default=math.inf)
        self.deadline = min((seed.next_at for seed in seeds if not seed.present), default=math.inf)

    def _is_present(self, member_id: MemberId) -> bool:
        row = self._state.table.get(member_id)
        return row is not None and row.present

    def handle_challenge(self, challenge: Challenge, sender: MemberId, source: Address) -> None:
        """Return the cookie with our record, at a generation above what is known of our name."""
        seed = self._seeds.get(source)
        if seed is None or seed.join_nonce != challenge.nonce:
            self._state.counters["stale_challenges"] += 1
            return
        seed.member_id, seed.is_self = sender, False
        seed.hello_nonce, seed.join_nonce = seed.join_nonce, b""
        seed.unanswered_hellos += 1
        if seed.unanswered_hellos > MAX_UNANSWERED_HELLOS and not self.joined:
            self._warn_not_welcome(source)
        self._flap_damping.handle_challenge(challenge)
        self._own_name.choose_generation(challenge.instances)
        me = self._state.me
        hello = Hello(challenge.nonce, challenge.cookie, msgspec.Raw(me.encoded), me.signature)
        self._state.send_to_stranger(source, sender, hello)

    def handle_welcome(self, welcome: Welcome, source: Address) -> None:
        seed = self._seeds.get(source)
        if seed is None or seed.hello_nonce != welcome.nonce:
            self._state.counters["stale_welcomes"] += 1
            return
        seed.hello_nonce, seed.unanswered_hellos = b"", 0
        for signed in welcome.records:
            self._updates.handle_record_untrusted(bytes(signed.record), signed.signature, source, quietly=True)

    def _warn_not_welcome(self, source: Address) -> None:
        """A member holds our key and challenges us, but does not let us join."""
        advice = (
            "its authority is probably not the one that issued --identity-file"
            if self._state.identity.credential
            else "its pool probably has an authority; give this member an identity (--ca-file and --identity-file)"
        )
        text = (
            f"{address_text(source)} answers, but does not let this member join: {advice}. The log there says more. "
            f"(A path that drops packets of {LONGEST_PACKET} bytes looks the same.)"
        )
        self._state.warn_operator("unwelcome", source, text, ours=True)

    # --- answering

    def handle_join(self, join: Join, sender: MemberId, source: Address) -> None:
        state = self._state
        if sender == state.me.member_id:  # one of our seeds is an address of ours
            seed = self._seeds.get(source)
            if seed is not None and seed.join_nonce == join.nonce:
                seed.is_self = True
            return
        instances = [
            KnownInstance(row.generation, row.instance, row.incarnation, row.liveness, row.pending, row.draining)
            for row in state.table.states_of(join.name)
        ]
        if len(join.padding) + len(join.name.encode()) < JOIN_BYTES:
            state.counters["short_join"] += 1
            return
        cookie = self._cookie(self._current_secrets()[0], source, sender, join.nonce)
        state.send_to_stranger(
            source, sender, Challenge(join.nonce, cookie, instances, self._flap_damping.death_ages(join.name))
        )

    def handle_hello_untrusted(self, hello: Hello, sender: MemberId, source: Address) -> None:
        """Admit a newcomer that has proved its address, and send it a few rows to start from."""
        state = self._state
        if not self._use_cookie(hello, sender, source):
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
        self._updates.send_other_instances(row, held)

    def handle_unknown_sender(self, who: UnknownSender, source: Address) -> MemberState | None:
        """The node at an address does not know us, or is another than we thought: join there.

        Returns the member that the quoted datagram was for, if that member's record gives this address.
        """
        member_id = self._state.sent_datagrams.take(who.mark, source)
        if member_id is None:
            self._state.counters["stale_who"] += 1
            return None
        self.try_address(source)
        asked = self._state.table.get(member_id)
        return asked if asked is not None and asked.address == source else None

    def send_unknown_sender(self, datagram: bytes, sender: MemberId, source: Address) -> None:
        """Answer a datagram that we cannot use, at most 100 times a second, and never with a longer one."""
        state = self._state
        if len(datagram) < UNKNOWN_SENDER_BYTES or not self._unknown_sender_limit.allows(source[0], state.now):
            state.counters["who_suppressed"] += 1
            return
        state.send_to_stranger(source, sender, UnknownSender(datagram[-MARK_BYTES:]))

    def _current_secrets(self) -> tuple[bytes, bytes]:
        now = self._state.now
        if now - self._secret_at >= COOKIE_SECONDS:
            old = now - self._secret_at >= 2 * COOKIE_SECONDS
            self._secrets = (self._state.token_bytes(32), self._state.token_bytes(32) if old else self._secrets[0])
            self._used_cookies = (set(), set() if old else self._used_cookies[0])
            self._secret_at = now
        return self._secrets

    def _use_cookie(self, hello: Hello, sender: MemberId, source: Address) -> bool:
        """Whether a hello returns a cookie of ours, for the first time."""
        for secret, spent in zip(self._current_secrets(), self._used_cookies, strict=True):
            if hmac.compare_digest(hello.cookie, self._cookie(secret, source, sender, hello.nonce)):
                if hello.cookie in spent or len(spent) >= MAX_USED_COOKIES:
                    return False
                spent.add(hello.cookie)
                return True
        return False

    def _cookie(self, secret: bytes, source: Address, sender: MemberId, nonce: bytes) -> bytes:
        """Proves that a stranger receives at an address. Valid for 10 to 20 seconds, and nothing is stored."""
        return hmac.digest(secret, b"|".join((repr(source).encode(), sender, nonce)), "sha256")[:16]
