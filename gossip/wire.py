"""The messages, and how a datagram's payload is laid out.

A payload is one msgpack array ``[generation, incarnation, [message, ...]]``: which life its sender is in, then what it
has to say. A message is an array as well, its first element the message id. msgspec checks every type, length and
range while decoding, so code behind :func:`decode_untrusted` never looks twice.

Members are named by the first eight bytes of their instance (*half*). What is said of another member (a suspicion, a
vote, a death) names half and incarnation; whoever lacks that very row drops the claim and asks the sender for the row.
What a member says of itself, and its votes, are signed (gossip/security/credentials.py): others pass them on as they
are.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from rumormill.membership.record import NO_SIGNATURE, InstanceId, Liveness, MemberId, MonotonicCounter, Signature

MAX_DATAGRAM = 1232
"""Bytes after sealing, without IP and UDP headers: an IPv6 packet of 1280 bytes, which every path has to carry."""
BUCKETS = 256

WireMemberId = Annotated[MemberId, msgspec.Meta(min_length=8, max_length=8)]
WireInstance = Annotated[InstanceId, msgspec.Meta(min_length=16, max_length=16)]
Cookie = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
GroupKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
KeyName = Annotated[bytes, msgspec.Meta(min_length=4, max_length=4)]
WireSignature = Annotated[Signature, msgspec.Meta(min_length=64, max_length=64)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Digest = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]

MAX_ENDS = 8
"""Ends of earlier lives that a challenge tells of: it must stay shorter than the question."""

DEAF = 1
"""Heartbeat flag: its sender hears nobody and judges nobody."""


class Message(msgspec.Struct, array_like=True, gc=False):
    """Base of everything that stands in a datagram."""


class Heartbeat(Message, tag=1):
    digest: Digest
    """Low half of the sender's table digest."""
    sent: Milliseconds
    """The sender's clock, modulo 2³²; only differences between heartbeats of one sender mean anything."""
    flags: Annotated[int, msgspec.Meta(ge=0, lt=128)]


class Ping(Message, tag=2):
    nonce: Nonce


class Ack(Message, tag=3):
    nonce: Nonce


class PingRequest(Message, tag=4):
    """Asks a third member to hand a ping on. The ping is sealed for the subject, so the helper can forge nothing."""

    subject: WireMemberId
    sealed: Annotated[bytes, msgspec.Meta(max_length=160)]


class IndirectAck(Message, tag=5):
    """A helper's answer where it needs no ping: it heard the subject itself, so long ago."""

    subject: WireMemberId
    age: Milliseconds


class Alive(Message, tag=16):
    """A record as its subject wrote it, still encoded: most are known already, and their bytes tell."""

    record: msgspec.Raw
    signature: WireSignature


class Suspect(Message, tag=17):
    subject: WireMemberId
    incarnation: MonotonicCounter


class Leave(Message, tag=18):
    subject: WireMemberId
    incarnation: MonotonicCounter
    signature: WireSignature


class SignedVote(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The voter saw three misses in a row of the subject."""

    voter: WireMemberId
    stamp: Milliseconds
    """The voter's clock as it voted, modulo 2³²: tells its votes apart."""
    age: Milliseconds
    """How long ago it voted, as far as the sender knows. The one thing here that is not signed."""
    signature: WireSignature


class VoteMessage(Message, tag=20):
    subject: WireMemberId
    incarnation: MonotonicCounter
    vote: SignedVote


class Dead(Message, tag=21):
    """The subject was evicted, on these votes. Without valid votes it is a suspicion."""

    subject: WireMemberId
    incarnation: MonotonicCounter
    votes: Annotated[list[SignedVote], msgspec.Meta(max_length=3)]


class Tombstone(Message, tag=22):
    """A dead or departed life of a name, for someone who may not hold its record. Age in seconds.

    Who holds the record believes a departure only with the subject's signature, as of :class:`Leave`.
    """

    name: Name
    generation: MonotonicCounter
    instance: WireInstance
    incarnation: MonotonicCounter
    liveness: Literal[2, 3]
    age: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    leave_signature: Annotated[Signature, msgspec.Meta(max_length=64)] = NO_SIGNATURE


class Join(Message, tag=32):
    """Asks to be let in under a name. Padded, so that no answer is longer than the question."""

    name: Name
    nonce: Nonce
    """Comes back in the challenge and the welcome: neither can be an old one."""
    padding: Annotated[bytes, msgspec.Meta(max_length=256)]


class KnownInstance(msgspec.Struct, frozen=True, array_like=True, gc=False):
    generation: MonotonicCounter
    instance: WireInstance
    incarnation: MonotonicCounter
    liveness: Liveness
    pending: bool
    draining: bool = False
    """Whether it had said that it takes no new work: then its end is no flap."""


class Challenge(Message, tag=33):
    nonce: Nonce
    cookie: Cookie
    lives: Annotated[list[KnownInstance], msgspec.Meta(max_length=2)]
    """What the answerer holds of the name, so that the newcomer can choose its generation."""
    ends: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=2**16)]], msgspec.Meta(max_length=MAX_ENDS)] = []
    """How many seconds ago lives of the name ended, so that the newcomer knows whether it flaps."""


class Hello(Message, tag=34):
    nonce: Nonce
    cookie: Cookie
    record: msgspec.Raw
    signature: WireSignature


class SignedRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    record: msgspec.Raw
    signature: WireSignature


class Welcome(Message, tag=35):
    nonce: Nonce
    digest: Digest
    members: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    records: Annotated[list[SignedRecord], msgspec.Meta(max_length=4)]


class UnknownSender(Message, tag=36):
    """ "I do not know you", or "nobody of that instance lives here": answered with a join."""

    mark: Nonce
    """The last eight bytes of the datagram this answers: who did not see that cannot ask."""


class NameInUse(Message, tag=37):
    name: Name
    instance: WireInstance
    """Who holds the name."""


class SyncDigest(Message, tag=48):
    """Opens a sync: 32-bit checksums of the 256 buckets of rows, by first byte of the instance."""

    buckets: Annotated[bytes, msgspec.Meta(min_length=4 * BUCKETS, max_length=4 * BUCKETS)]


class PolicyMessage(Message, tag=64):
    """A policy as it was written, still encoded; the signature is empty where the pool signs none."""

    record: msgspec.Raw
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class SyncEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A member's row, or a policy: then the half is what names that, and 40 bits of its checksum follow."""

    member_id: WireMemberId
    incarnation: MonotonicCounter


class SyncOffer(Message, tag=49):
    """What the answerer holds in the buckets that differ: part ``part`` of ``parts``."""

    part: Annotated[int, msgspec.Meta(ge=0, lt=1024)]
    parts: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    buckets: Annotated[bytes, msgspec.Meta(max_length=BUCKETS)]
    """The buckets this part lists completely."""
    entries: Annotated[list[SyncEntry], msgspec.Meta(max_length=96)]


class SyncRequest(Message, tag=50):
    """Asks for rows; the answer is datagrams of :class:`Alive`, or of tombstones."""

    member_ids: Annotated[list[WireMemberId], msgspec.Meta(max_length=96)]


class SyncBusy(Message, tag=51):
    """Too many syncs at once here; ask somebody else."""


class KeyRingUpdate(Message, tag=80):
    """The whole key ring, the primary first. Only ever sealed, and for a member whose row is held."""

    version: MonotonicCounter
    keys: Annotated[list[GroupKey], msgspec.Meta(min_length=1, max_length=8)]

    def __repr__(self) -> str:
        """Without the keys: whatever prints a message must not print them."""
        return f"Keys({self.version}, {len(self.keys)} key(s))"


class KeyRingReport(Message, tag=81):
    """Which ring the sender holds, without a key of it."""

    version: MonotonicCounter
    digest: Nonce
    names: Annotated[list[KeyName], msgspec.Meta(max_length=8)]
    ask: bool
    """Whether the same is wanted of the receiver."""


AnyMessage = (
    Heartbeat
    | Ping
    | Ack
    | PingRequest
    | IndirectAck
    | Alive
    | Suspect
    | Leave
    | VoteMessage
    | Dead
    | Tombstone
    | Join
    | Challenge
    | Hello
    | Welcome
    | UnknownSender
    | NameInUse
    | SyncDigest
    | SyncOffer
    | SyncRequest
    | SyncBusy
    | PolicyMessage
    | KeyRingUpdate
    | KeyRingReport
)


JOINING = (Join, Challenge, Hello, Welcome, UnknownSender)
"""What strangers say to each other; everything else is between members."""


class Payload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A decoded datagram: the sender's generation and incarnation as it sent, and its messages in order."""

    generation: MonotonicCounter
    incarnation: MonotonicCounter
    messages: Annotated[list[AnyMessage], msgspec.Meta(max_length=128)]


class UndecodablePayload(ValueError):
    """Bytes that authenticated but are not a payload: another version, or a broken peer."""


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Payload)

_SHORT_ARRAYS = [bytes((0x90 | count,)) for count in range(16)]

encode_message = _encode
"""One message to its bytes."""


def payload_prefix(generation: int, incarnation: int) -> bytes:
    """The opening bytes of every payload a member sends until its incarnation changes."""
    return b"\x93" + _encode(generation) + _encode(incarnation)


def assemble(prefix: bytes, messages: list[bytes]) -> bytes:
    """A payload from a prefix and at most 65535 encoded messages."""
    count = len(messages)
    header = _SHORT_ARRAYS[count] if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return b"".join((prefix, header, *messages))


def decode_untrusted(data: bytes) -> Payload:
    """An opened datagram to its messages. Raises :class:`UndecodablePayload`, nothing else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodablePayload(str(error)) from None
