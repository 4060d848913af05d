"""Getting in: join, challenge, hello, welcome.

Anyone answers a join, joined or not, with a stateless cookie and what it holds of the newcomer's name; nothing is kept
for a stranger until it has shown the cookie from the address it claims. The welcome holds a few rows and never the
table (full tables cost the one seed of 1000 nodes 167 MB, this 3.4): the newcomer then syncs with members at random.

Seeds are addresses that are tried for as long as nobody there is a member we hold: starting alone is fine, and so is
everyone starting at once, or a seed that comes back in another life long after.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable

import msgspec

from rumormill.gossip.claims import Claims
from rumormill.gossip.naming import Naming
from rumormill.gossip.seal import NOBODY
from rumormill.gossip.state import State
from rumormill.gossip.wire import Challenge, Hello, Join, KnownLife, Welcome, Who, encode_message
from rumormill.membership.record import Address, InvalidRecord
from rumormill.membership.row import row_of_record_untrusted

FIRST_JITTER = 0.1
FIRST_WAIT, LAST_WAIT, JOINED_WAIT = 0.06, 0.5, 2.0
COOKIE_SECONDS = 10
JOIN_BYTES = 128
MAX_TRANSIENT = 64
WHO_PER_SECOND = 100


class Contact:
    """An address we ask to let us in. ``tries`` are those left; seeds have no end."""

    __slots__ = ("due", "tenant", "tries", "wait")

    def __init__(self, due: float, tries: float) -> None:
        self.due = due
        self.wait = FIRST_WAIT
        self.tries = tries
        self.tenant = NOBODY
        """Half of the member that last answered from there."""


class Joining:
    """Asks our way in, and lets others in."""

    def __init__(self, state: State, claims: Claims, naming: Naming) -> None:
        self._state = state
        self._claims = claims
        self._naming = naming
        self._secret = state.token_bytes(32)
        self._contacts: dict[Address, Contact] = {}
        self._ourselves: set[Address] = {state.me.address} if state.me.address else set()
        self._who_budget = float(WHO_PER_SECOND)
        self._who_at = state.now
        self._deadline = math.inf
        self.joined = False
        """Whether we have come to hold somebody else's row."""

    @property
    def deadline(self) -> float:
        return self._deadline

    # --- asking

    def set_contacts(self, addresses: Iterable[Address]) -> None:
        """Replace the seeds; one that was known keeps its pace."""
        wanted = [address for address in dict.fromkeys(addresses) if address not in self._ourselves]
        transient = {a: c for a, c in self._contacts.items() if c.tries < math.inf}
        kept = {a: self._contacts[a] for a in wanted if a in self._contacts and a not in transient}
        fresh = {
            a: Contact(self._state.now + self._state.rng.random() * FIRST_JITTER, math.inf)
            for a in wanted
            if a not in kept
        }
        self._contacts = {**transient, **kept, **fresh}
        self._rearm()

    def try_address(self, address: Address) -> None:
        """Somebody there does not know us, or is not who we thought: ask now, whatever we asked there before."""
        if address in self._ourselves:
            return
        contact = self._contacts.get(address)
        if contact is not None:
            contact.due = min(contact.due, self._state.now + FIRST_WAIT)
            contact.wait = FIRST_WAIT
            contact.tenant = NOBODY
        elif len(self._contacts) < MAX_TRANSIENT:
            self._contacts[address] = Contact(self._state.now, 3)
        self._rearm()

    def tick(self) -> None:
        state = self._state
        if state.now < self._deadline:
            return
        for address, contact in list(self._contacts.items()):
            if contact.due > state.now:
                continue
            if contact.tries == math.inf and (row := state.table.get(contact.tenant)) is not None and row.present:
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
        self._state.post_stranger(address, Join(name, padding))

    def _rearm(self) -> None:
        self._deadline = min((contact.due for contact in self._contacts.values()), default=math.inf)

    def hear_challenge(self, challenge: Challenge, sender: bytes, source: Address) -> None:
        """Show the cookie and our record, in a generation that fits what is already known of our name."""
        contact = self._contacts.get(source)
        if contact is None:
            return
        contact.tenant = sender
        self._naming.introduce(challenge.lives)
        hello = Hello(challenge.cookie, msgspec.Raw(self._state.me.encoded))
        self._state.post(source, sender, [encode_message(hello)])

    def hear_welcome(self, welcome: Welcome, sender: bytes) -> None:
        del sender
        for raw in welcome.records:
            self._claims.hear_record_untrusted(bytes(raw), None, quietly=True)

    # --- answering

    def hear_join(self, join: Join, sender: bytes, source: Address) -> None:
        state = self._state
        if sender == state.me.half:  # one of our seeds is ourselves, under another address
            self._ourselves.add(source)
            return
        lives = [
            KnownLife(row.generation, row.instance, row.incarnation, row.liveness, row.pending)
            for row in state.table.lives(join.name)
        ]
        if len(join.padding) + len(join.name.encode()) < JOIN_BYTES:
            state.counters["short_join"] += 1
            return
        state.post(source, sender, [encode_message(Challenge(self._cookie(source, sender, 0), lives))])

    def hear_hello_untrusted(self, hello: Hello, sender: bytes, source: Address) -> None:
        """Admit a newcomer that proved its address, and hand it a few rows to start from."""
        state = self._state
        if not any(hmac.compare_digest(hello.cookie, self._cookie(source, sender, age)) for age in (0, 1)):
            state.counters["bad_cookie"] += 1
            return
        encoded = bytes(hello.record)
        try:
            row = row_of_record_untrusted(encoded)
        except InvalidRecord:
            state.counters["invalid_record"] += 1
            return
        if row.half != sender:
            state.counters["invalid_record"] += 1
            return
        self._claims.hear_record_untrusted(encoded, None)
        others = [held for held in state.table.lives(row.name) if held.half != row.half]
        rows = [held for held in others if held.present]
        rows += [state.me, *state.random_members(3, exclude=(row.half,))]
        chosen = list(dict.fromkeys(r.encoded for r in rows if r.encoded))[:4]
        welcome = Welcome(
            state.table.digest & 0xFFFFFFFF, len(state.table.order), [msgspec.Raw(encoded) for encoded in chosen]
        )
        state.post(source, sender, [encode_message(welcome)])
        for held in others:
            if not held.present:  # a bare record would bring the dead life back in the newcomer's eyes
                self._claims.answer(held, row, by_name=True)

    def hear_who(self, who: Who, source: Address) -> None:
        """We are not known there, or somebody else lives there: introduce ourselves."""
        del who
        self.try_address(source)

    def ask_who(self, asked: bytes, sender: bytes, source: Address) -> None:
        """Answer a datagram we can do nothing with, at most 100 times a second."""
        state = self._state
        self._who_budget = min(WHO_PER_SECOND, self._who_budget + (state.now - self._who_at) * WHO_PER_SECOND)
        self._who_at = state.now
        if self._who_budget < 1:
            state.counters["who_suppressed"] += 1
            return
        self._who_budget -= 1
        if asked != NOBODY:
            state.post(source, sender, [encode_message(Who(asked))])

    def _cookie(self, source: Address, sender: bytes, age: int) -> bytes:
        """Proof that somebody receives at an address, good for 10 to 20 seconds, without any memory of them."""
        slot = int(self._state.now / COOKIE_SECONDS) - age
        text = b"|".join((repr(source).encode(), sender, str(slot).encode()))
        return hmac.new(self._secret, text, hashlib.sha256).digest()[:16]
