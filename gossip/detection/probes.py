"""Direct and indirect probes, and the round-trip times they show.

A direct probe is a ping. An indirect probe asks a helper to ping the subject. The request carries a ping that is
already sealed for the subject. The helper passes it on unchanged and passes the sealed ack back unchanged, so it can
forge neither. A helper that heard the subject within the last period answers at once instead, with the age of what it
heard. Two of the helpers are other monitors of the subject, since they have usually heard it.

A round trip of more than a period delays the misses of a subject, so one measurement of it is not enough: the process
may have been starting. Its monitors measure it again after one second, two, four, eight, and then every sixteen, for as
long as it stays above a period.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.part import Part
from rumormill.gossip.state import MAX_MESSAGE_BYTES, NodeState
from rumormill.gossip.wire import KIND_BY_TYPE, MAX_DATAGRAM, Ack, IndirectAck, Ping, PingRequest, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Address, Liveness, MemberId
from rumormill.membership.view import Connectivity

INDIRECT_CHECKS = 3
"""Helpers that ping a subject for us. Larger: more datagrams at each miss. Smaller: more false misses on lossy
networks."""
MAX_OUTSTANDING = 1024
MAX_RELAYS = 512
RELAY_SECONDS = 2.0
REPEAT_SECONDS = 0.02
RTT_RECHECK_FIRST, RTT_RECHECK_MAX = 1.0, 16.0
"""Seconds after which a long round trip is measured again; doubled each time, up to the maximum."""
NEVER_DUE = (math.inf, 0.0)
PROBE = KIND_BY_TYPE[Ping]


class Probes(Part):
    """Our outstanding pings, the pings we relay for others, and the round-trip times measured."""

    __slots__ = (
        "_broadcast",
        "_latest_direct",
        "_outstanding",
        "_relays",
        "_repeats",
        "_rtt",
        "_rtt_rechecks",
        "_state",
        "deaf_members",
    )

    def __init__(self, state: NodeState, broadcast: Broadcast) -> None:
        self._state = state
        self._broadcast = broadcast
        self._outstanding: dict[bytes, tuple[MemberId, float, bool]] = {}
        """By nonce: the subject of a ping, when it was sent, and whether directly."""
        self._latest_direct: dict[MemberId, bytes] = {}
        """The nonce of the last direct ping to each member, until it is answered or the member is not alive."""
        self._relays: dict[tuple[MemberId, MemberId], tuple[float, Address]] = {}
        """By subject and requester of an indirect ping: until when to pass its ack back, and where to."""
        self._repeats: list[tuple[float, MemberId]] = []
        """Pings to be sent, the earliest first."""
        self._rtt: dict[MemberId, float] = {}
        self._rtt_rechecks: dict[MemberId, tuple[float, float]] = {}
        """Round trips of more than a period: when to measure each again, and how long to wait after that. Seconds."""
        self.deaf_members: dict[MemberId, None] = {}
        """Members whose heartbeats say that they hear nobody. They cannot help with indirect probes."""

    @property
    def deadline(self) -> float:
        return self._repeats[0][0] if self._repeats else math.inf

    def tick(self) -> None:
        """Send the repeated pings that are due, unless the member has been heard."""
        state = self._state
        while self._repeats and self._repeats[0][0] <= state.now:
            _, member_id = self._repeats.pop(0)
            row = state.table.get(member_id)
            if row is not None and row.present and not state.heard_within(member_id, state.settings.period):
                self.ping(row)

    def restart(self) -> None:
        """After a pause of our own: nothing that is outstanding means anything."""
        self._outstanding.clear()
        self._latest_direct.clear()
        self._repeats.clear()

    def forget(self, member_id: MemberId) -> None:
        self._rtt.pop(member_id, None)
        self._rtt_rechecks.pop(member_id, None)
        self._latest_direct.pop(member_id, None)

    # --- direct probes

    def ping(self, row: MemberState) -> None:
        """Ping a member directly."""
        if row.address is not None:
            self.send_with_piggyback(row, encode_message(Ping(self._direct_nonce(row))))

    def send_with_piggyback(self, row: MemberState, message: bytes) -> None:
        """Send an encoded message, with news piggybacked.

        A member that is not alive here gets no news, because news would be lost on a dead member. It is told what we
        hold it for instead, before the message and at most once a period, unless we are cut off ourselves.
        """
        if not row.liveness:
            self._state.send_encoded(row, [message, *self._broadcast.piggyback.take(MAX_MESSAGE_BYTES - len(message))])
        elif not self._state.cut_off and self._state.throttle(row.member_id, "greeting", self._state.settings.period):
            self._state.send_encoded(row, [self._broadcast.encoder.state_of(row), message])
        else:
            self._state.send_encoded(row, [message])

    def bare_ping(self, row: MemberState) -> bytes:
        """Send a ping without piggybacked news, so that a refusal can quote the whole of it. Returns the datagram."""
        datagram = self._state.sealed_for(row, Ping(self._direct_nonce(row)))
        if row.address is not None:
            self._state.post_raw(row.address, datagram, PROBE)
        return datagram

    def repeat_ping(self, member_id: MemberId, times: int) -> None:
        """Ping directly so many times more, 20 ms apart."""
        for number in range(1, times + 1):
            self._repeats.append((self._state.now + number * REPEAT_SECONDS, member_id))
        self._repeats.sort()

    def on_ping(self, ping: Ping, sender: MemberState, source: Address) -> None:
        """Send an ack back the way the ping came: directly, or through the helper that relayed it.

        While nobody hears us, one ack a period is enough: our other datagrams also show when we are heard again.
        """
        state = self._state
        unheard = state.connectivity is Connectivity.MUTE
        if unheard and not state.throttle(state.me.member_id, "ack", state.settings.period):
            return
        message = encode_message(Ack(ping.nonce))
        state.post(source, sender, [message, *self._broadcast.piggyback.take(MAX_MESSAGE_BYTES - len(message))])

    def on_ack(self, ack: Ack, sender: MemberState) -> bool:
        """True if the ack answers a ping of ours to its sender."""
        subject, sent, direct = self._outstanding.pop(ack.nonce, (None, 0.0, False))
        if subject != sender.member_id:
            return False
        if direct and self._latest_direct.get(sender.member_id) == ack.nonce:
            del self._latest_direct[sender.member_id]
            self._update_rtt(sender.member_id, self._state.now - sent)
            self._state.measurements.round_trip.observe(self._state.now - sent)
        return True

    def cancel_direct_ping(self, member_id: MemberId) -> bool:
        """Another process answered at a member's address. True, once, if we had pinged that address."""
        for nonce, (subject, _, direct) in self._outstanding.items():
            if direct and subject == member_id:
                del self._outstanding[nonce]
                return True
        return False

    # --- indirect probes

    def verify(self, row: MemberState) -> None:
        """Ping a member directly and through helpers. Repeated direct pings replace helpers that are missing."""
        self.ping(row)
        if not self._state.cut_off:
            self.repeat_ping(row.member_id, INDIRECT_CHECKS - self.indirect_ping(row))

    def indirect_ping(self, subject: MemberState) -> int:
        """Ask helpers to ping the subject. Returns how many were asked."""
        helpers = self._helpers(subject)
        for helper in helpers:
            sealed = self._state.sealed_for(subject, Ping(self._nonce(subject.member_id)))
            self._state.send(helper, PingRequest(subject.member_id, sealed))
        return len(helpers)

    def _helpers(self, subject: MemberState) -> list[MemberState]:
        """Two of the subject's other monitors, who may have heard it, and others at random."""
        state, table = self._state, self._state.table
        monitors = state.voter_eligibility.monitors_of(subject.member_id)
        unable = (state.me.member_id, *self.deaf_members)
        able = [helper for helper in monitors if helper not in unable and helper not in table.suspects][:2]
        chosen = [row for member_id in able if (row := table.get(member_id))]
        return chosen + state.random_members(INDIRECT_CHECKS - len(chosen), exclude=(subject.member_id, *able))

    def on_ping_request(self, request: PingRequest, sender: MemberState) -> None:
        """Another member asks about a subject: say when we heard it, or relay the ping."""
        state = self._state
        row = state.table.get(request.subject)
        if row is None or row.address is None or sender.address is None:
            return
        if self._may_vouch(row.member_id, sender.member_id):
            state.send(
                sender, IndirectAck(row.member_id, max(0, int((state.now - state.last_heard[row.member_id]) * 1000)))
            )
        else:
            self._remember_relay(row.member_id, sender.member_id, sender.address)
            state.post_raw(row.address, request.sealed, PROBE)

    def _may_vouch(self, subject: MemberId, requester: MemberId) -> bool:
        """Whether to answer with what we heard. A requester believes that for five periods only, so a second request
        within four is relayed."""
        state, period = self._state, self._state.settings.period
        return state.heard_within(subject, period) and state.throttle(requester + subject, "hearsay", 4 * period)

    def _remember_relay(self, subject: MemberId, requester: MemberId, address: Address) -> None:
        self._relays[(subject, requester)] = (self._state.now + RELAY_SECONDS, address)
        while len(self._relays) > MAX_RELAYS:
            del self._relays[next(iter(self._relays))]

    def relay_ack(self, sender: MemberId, receiver: MemberId, datagram: bytes) -> bool:
        """A datagram for another member: pass it on if it can be the ack of a ping that we relayed for that member."""
        until, address = self._relays.get((sender, receiver), (-math.inf, None))
        if address is None or until < self._state.now or len(datagram) > MAX_DATAGRAM:
            return False
        self._state.post_raw(address, datagram, PROBE)
        return True

    # --- round-trip times

    def rtt(self, member_id: MemberId) -> float:
        """Smoothed round-trip time to a member in seconds; 0 until one is known."""
        return self._rtt.get(member_id, 0.0)

    def remeasure_rtt(self, member_ids: Iterable[MemberId]) -> None:
        """Ping those of some members whose long round trip is due to be measured again."""
        state = self._state
        for member_id in member_ids if self._rtt_rechecks else ():
            due, wait = self._rtt_rechecks.get(member_id, NEVER_DUE)
            if state.now >= due and (row := state.table.get(member_id)) is not None and row.liveness is Liveness.ALIVE:
                self._rtt_rechecks[member_id] = (state.now + wait, min(2 * wait, RTT_RECHECK_MAX))
                self.ping(row)

    def _update_rtt(self, member_id: MemberId, seconds: float) -> None:
        """Take a round trip into account.

        Only the round trip of the latest ping counts (Karn, Partridge, 1987). A member that was frozen answers all
        pings that were sent meanwhile, and the earlier ones only tell how long it was frozen. A shorter round trip
        counts in full, because nothing makes a round trip look shorter than it is; a longer one counts by an eighth.
        """
        smoothed = self._rtt.get(member_id, seconds)
        smoothed = self._rtt[member_id] = seconds if seconds < smoothed else smoothed + (seconds - smoothed) / 8
        if smoothed > self._state.settings.period:
            self._rtt_rechecks.setdefault(member_id, (self._state.now + RTT_RECHECK_FIRST, 2 * RTT_RECHECK_FIRST))
        else:
            self._rtt_rechecks.pop(member_id, None)

    def _direct_nonce(self, row: MemberState) -> bytes:
        """The nonce of a direct ping. A suspect's answer is no round trip: it may come only when the suspect wakes."""
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
