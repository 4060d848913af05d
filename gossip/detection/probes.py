"""Pings, acks, pings by way of others, and the round-trip times they show.

A ping-request carries a ping that is already sealed for its subject. The helper hands it on as it is, and hands the
sealed ack back as it is, so it can forge neither. A helper that heard the subject within a period says so at once
instead, with the age: a monitor asks two of the subject's other monitors, who usually know.

A round trip of more than a period delays the misses of a subject, so it is not believed at first sight: it may be that
of a process that was starting. Its monitors measure it again after one second, two, four and so on, and then every
sixteen, for as long as that is so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.state import MAX_MESSAGE_BYTES, NodeState
from rumormill.gossip.wire import MAX_DATAGRAM, Ack, IndirectAck, Ping, PingRequest, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Address, Liveness, MemberId
from rumormill.membership.view import Connectivity

MAX_OUTSTANDING = 1024
MAX_RELAYS = 512
RELAY_SECONDS = 2.0
REPEAT_SECONDS = 0.02
RTT_RECHECK_FIRST, RTT_RECHECK_MAX = 1.0, 16.0
"""Seconds after which a long round trip is measured again, doubled each time up to the last."""
NEVER_DUE = (math.inf, 0.0)
"""Never due."""


class Probes:
    """Outstanding pings of ours, those we hand on for others, and what round trips they showed."""

    __slots__ = (
        "_broadcast",
        "_latest_direct",
        "_outstanding",
        "_relays",
        "_repeats",
        "_rtt",
        "_rtt_rechecks",
        "_state",
    )

    def __init__(self, state: NodeState, spread: Broadcast) -> None:
        self._state = state
        self._broadcast = spread
        self._outstanding: dict[bytes, tuple[MemberId, float, bool]] = {}
        self._latest_direct: dict[MemberId, bytes] = {}
        """The nonce of the last direct ping to each member, while it has not been answered and the member is alive."""
        self._relays: dict[tuple[MemberId, MemberId], tuple[float, Address]] = {}
        self._repeats: list[tuple[float, MemberId]] = []
        self._rtt: dict[MemberId, float] = {}
        self._rtt_rechecks: dict[MemberId, tuple[float, float]] = {}
        """Round trips of more than a period: when to measure each again, and how long to wait then. Seconds."""

    @property
    def deadline(self) -> float:
        return self._repeats[0][0] if self._repeats else math.inf

    def rtt(self, member_id: MemberId) -> float:
        """Round-trip time to a member in seconds, smoothed; 0 until one is known."""
        return self._rtt.get(member_id, 0.0)

    def ping(self, row: MemberState) -> None:
        """Ping a member directly."""
        if row.address is not None:
            self.send_with_piggyback(row, encode_message(Ping(self._direct_nonce(row))))

    def send_with_piggyback(self, row: MemberState, message: bytes) -> None:
        """Send an encoded message, with news riding along. To a member that is not alive here none rides, it would be
        lost on the dead; it is told first what is thought of it, once a period at most, unless we are cut off
        ourselves."""
        if not row.liveness:
            self._state.send_encoded(row, [message, *self._broadcast.piggyback.take(MAX_MESSAGE_BYTES - len(message))])
        elif not self._state.cut_off and self._state.throttle(row.member_id, "greeting", self._state.settings.period):
            self._state.send_encoded(row, [self._broadcast.encoder.state_of(row), message])
        else:
            self._state.send_encoded(row, [message])

    def bare_ping(self, row: MemberState) -> bytes:
        """A ping that carries nothing else, so that whoever refuses it can quote it whole; returns the datagram."""
        datagram = self._state.sealed_for(row, Ping(self._direct_nonce(row)))
        if row.address is not None:
            self._state.post_raw(row.address, datagram)
        return datagram

    def remeasure_rtt(self, member_ids: Iterable[MemberId]) -> None:
        """Ping those of some members whose round trip is in doubt, and due."""
        state = self._state
        for member_id in member_ids if self._rtt_rechecks else ():
            due, wait = self._rtt_rechecks.get(member_id, NEVER_DUE)
            if state.now >= due and (row := state.table.get(member_id)) is not None and row.liveness is Liveness.ALIVE:
                self._rtt_rechecks[member_id] = (state.now + wait, min(2 * wait, RTT_RECHECK_MAX))
                self.ping(row)

    def request_ping(self, helper: MemberState, subject: MemberState) -> None:
        """Ask a third member to ping the subject."""
        sealed = self._state.sealed_for(subject, Ping(self._nonce(subject.member_id)))
        self._state.send(helper, PingRequest(subject.member_id, sealed))

    def repeat_ping(self, member_id: MemberId, times: int) -> None:
        """Ping again directly, so many times, 20 ms apart."""
        for number in range(1, times + 1):
            self._repeats.append((self._state.now + number * REPEAT_SECONDS, member_id))
        self._repeats.sort()

    def tick(self) -> None:
        while self._repeats and self._repeats[0][0] <= self._state.now:
            _, member_id = self._repeats.pop(0)
            row = self._state.table.get(member_id)
            if row is not None and row.present and not self._state.heard_within(member_id, self._state.settings.period):
                self.ping(row)

    def on_ping(self, ping: Ping, sender: MemberState, source: Address) -> None:
        """Ack a ping to where it came from: directly, or by way of the helper that handed it on. While nobody hears us
        one a period will do: what we send anyway shows as well when we are heard again."""
        state = self._state
        if state.connectivity is Connectivity.MUTE and not state.throttle(
            state.me.member_id, "ack", state.settings.period
        ):
            return
        message = encode_message(Ack(ping.nonce))
        self._state.post(source, sender, [message, *self._broadcast.piggyback.take(MAX_MESSAGE_BYTES - len(message))])

    def on_ack(self, ack: Ack, sender: MemberState) -> bool:
        """True if the ack answers a ping of ours to its sender."""
        known = self._outstanding.pop(ack.nonce, None)
        if known is None or known[0] != sender.member_id:
            return False
        if known[2] and self._latest_direct.get(sender.member_id) == ack.nonce:
            del self._latest_direct[sender.member_id]
            self._update_rtt(sender.member_id, self._state.now - known[1])
        return True

    def _update_rtt(self, member_id: MemberId, seconds: float) -> None:
        """Take a round trip into account. Only the latest ping's counts (Karn, Partridge, 1987): a member that was
        frozen answers all that were sent meanwhile, and the earlier ones tell how long it slept. For the same reason a
        shorter one counts at once (nothing makes a round trip look shorter than it is), a longer one by an eighth."""
        smoothed = self._rtt.get(member_id, seconds)
        smoothed = self._rtt[member_id] = seconds if seconds < smoothed else smoothed + (seconds - smoothed) / 8
        if smoothed > self._state.settings.period:
            self._rtt_rechecks.setdefault(member_id, (self._state.now + RTT_RECHECK_FIRST, 2 * RTT_RECHECK_FIRST))
        else:
            self._rtt_rechecks.pop(member_id, None)

    def cancel_direct_ping(self, member_id: MemberId) -> bool:
        """Somebody else lives at a member's address: true (once) if a direct ping to it was outstanding."""
        for nonce, (subject, _, direct) in self._outstanding.items():
            if direct and subject == member_id:
                del self._outstanding[nonce]
                return True
        return False

    def on_ping_request(self, request: PingRequest, sender: MemberState) -> None:
        """Somebody asks about a subject: say when we heard it, or hand the ping on."""
        state = self._state
        row = state.table.get(request.subject)
        if row is None or row.address is None or sender.address is None:
            return
        period = state.settings.period  # hearsay is believed for five of them: asked again, we hand the ping on
        if state.heard_within(row.member_id, period) and state.throttle(
            sender.member_id + row.member_id, "hearsay", 4 * period
        ):
            state.send(
                sender, IndirectAck(row.member_id, max(0, int((state.now - state.last_heard[row.member_id]) * 1000)))
            )
        else:
            self._relays[(row.member_id, sender.member_id)] = (state.now + RELAY_SECONDS, sender.address)
            while len(self._relays) > MAX_RELAYS:
                del self._relays[next(iter(self._relays))]
            state.post_raw(row.address, request.sealed)

    def relay_ack(self, sender: MemberId, receiver: MemberId, datagram: bytes) -> bool:
        """A datagram for somebody else: pass it on if it may be the ack of a ping we handed on for them."""
        relay = self._relays.get((sender, receiver))
        if relay is None or relay[0] < self._state.now or len(datagram) > MAX_DATAGRAM:
            return False
        self._state.post_raw(relay[1], datagram)
        return True

    def forget(self, member_id: MemberId) -> None:
        self._rtt.pop(member_id, None)
        self._rtt_rechecks.pop(member_id, None)
        self._latest_direct.pop(member_id, None)

    def restart(self) -> None:
        """After a pause of our own nothing outstanding means anything."""
        self._outstanding.clear()
        self._latest_direct.clear()
        self._repeats.clear()

    def _direct_nonce(self, row: MemberState) -> bytes:
        """Of a ping whose answer is a round trip; not so to a suspect, which may answer when it wakes."""
        nonce = self._nonce(row.member_id, direct=True)
        if row.liveness is Liveness.ALIVE:
            self._latest_direct[row.member_id] = nonce
        else:
            self._latest_direct.pop(row.member_id, None)
        return nonce

    def _nonce(self, member_id: MemberId, *, direct: bool = False) -> bytes:
        nonce = self._state.rng.getrandbits(64).to_bytes(8, "big")
        if len(self._outstanding) >= MAX_OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]
        self._outstanding[nonce] = (member_id, self._state.now, direct)
        return nonce
