"""The messages, and the layout of a datagram's payload.

A payload is one msgpack array ``[generation, incarnation, [message, ...]]``: the sender's generation and incarnation,
then its messages. A message is an array whose first element is the message id. msgspec checks every type, length and
range while it decodes, so code behind :func:`decode_untrusted` does not check again.

Messages name members by the first eight bytes of their instance, the *member id*. A claim about another member (a
suspicion, a vote, a death) states the subject's member id and incarnation. A receiver that does not hold that row drops
the claim and asks the sender for the row. A member signs what it says of itself, and its votes
(gossip/security/credentials.py). Others pass signed messages on unchanged.
"""

from __future__ import annotations

from typing import Annotated, Literal, cast, get_args

import msgspec

from rumormill.membership.load import Load
from rumormill.membership.measurements import DATAGRAM_KINDS
from rumormill.membership.record import NO_SIGNATURE, InstanceId, Liveness, MemberId, MonotonicCounter, Signature

MAX_DATAGRAM = 1232
"""Bytes after sealing, without IP and UDP headers: an IPv6 packet of 1280 bytes, which every path must carry."""
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
"""Ends of earlier instances in a challenge at most: a challenge must be shorter than the join that it answers."""

DEAF = 1
"""Heartbeat flag: the sender receives nothing from others, and evicts nobody."""


class Message(msgspec.Struct, array_like=True, gc=False):
    """Base of all messages."""


class Heartbeat(Message, tag=1):
    digest: Digest
    """The low 32 bits of the sender's table digest."""
    sent: Milliseconds
    """The sender's clock, modulo 2³². Only differences between heartbeats of one sender have a meaning."""
    flags: Annotated[int, msgspec.Meta(ge=0, lt=128)]


class Ping(Message, tag=2):
    nonce: Nonce


class Ack(Message, tag=3):
    nonce: Nonce


class PingRequest(Message, tag=4):
    """Asks a third member to relay a ping. The ping is sealed for the subject, so the helper cannot forge it."""

    subject: WireMemberId
    sealed: Annotated[bytes, msgspec.Meta(max_length=160)]


class IndirectAck(Message, tag=5):
    """A helper's answer where no ping is needed: how long ago it heard the subject itself."""

    subject: WireMemberId
    age: Milliseconds


class Alive(Message, tag=16):
    """A record as its subject wrote it. It stays encoded, because most records are known already by their bytes."""

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
    """A vote: the voter observed three consecutive misses of the subject."""

    voter: WireMemberId
    stamp: Milliseconds
    """The voter's clock when it voted, modulo 2³². It tells the voter's votes apart."""
    age: Milliseconds
    """How long ago it voted, as far as the sender knows. This is the only field that is not signed."""
    signature: WireSignature


class LeaveAck(Message, tag=19):
    """Tells a member that its leave was heard. Wire version 2."""

    subject: WireMemberId
    incarnation: MonotonicCounter
    """Of the leave."""


class VoteMessage(Message, tag=20):
    subject: WireMemberId
    incarnation: MonotonicCounter
    vote: SignedVote


class Dead(Message, tag=21):
    """The subject was evicted because of these votes. Without valid votes this is a suspicion."""

    subject: WireMemberId
    incarnation: MonotonicCounter
    votes: Annotated[list[SignedVote], msgspec.Meta(max_length=3)]


class Tombstone(Message, tag=22):
    """A dead or departed instance of a name, for a receiver that may not hold its record. Age in seconds.

    Members that hold the record require the subject's signature before they believe a departure, as for :class:`Leave`.
    """

    name: Name
    generation: MonotonicCounter
    instance: WireInstance
    incarnation: MonotonicCounter
    liveness: Literal[2, 3]
    age: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    leave_signature: Annotated[Signature, msgspec.Meta(max_length=64)] = NO_SIGNATURE


class Join(Message, tag=32):
    """Asks to join under a name. Padded, so that no answer is longer than the request."""

    name: Name
    nonce: Nonce
    """The challenge and the welcome repeat it, so that an old one is not accepted."""
    padding: Annotated[bytes, msgspec.Meta(max_length=256)]


class KnownInstance(msgspec.Struct, frozen=True, array_like=True, gc=False):
    generation: MonotonicCounter
    instance: WireInstance
    incarnation: MonotonicCounter
    liveness: Liveness
    pending: bool
    draining: bool = False
    """Whether it had announced that it takes no new work. Its end is then not a flap."""


class Challenge(Message, tag=33):
    nonce: Nonce
    cookie: Cookie
    instances: Annotated[list[KnownInstance], msgspec.Meta(max_length=2)]
    """The rows that the answerer holds for the name, so that the newcomer can choose its generation."""
    ends: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=2**16)]], msgspec.Meta(max_length=MAX_ENDS)] = []
    """How many seconds ago instances of the name ended, so that the newcomer knows whether it is flapping."""


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
    """The sender is unknown here, or the receiving instance does not live here. The answer is a join."""

    mark: Nonce
    """The last eight bytes of the datagram that this answers. Only a host that saw the datagram can send this."""


class NameInUse(Message, tag=37):
    name: Name
    instance: WireInstance
    """The instance that holds the name."""


class SyncDigest(Message, tag=48):
    """Opens a sync: 32-bit checksums of the 256 buckets of rows, by the first byte of the instance."""

    buckets: Annotated[bytes, msgspec.Meta(min_length=4 * BUCKETS, max_length=4 * BUCKETS)]


class PolicyMessage(Message, tag=64):
    """A policy as its writer encoded it. The signature is empty where the pool does not sign policies."""

    record: msgspec.Raw
    signature: Annotated[Signature, msgspec.Meta(max_length=64)] = NO_SIGNATURE


class SyncEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A member's row, or a policy. For a policy, the policy's id and 40 bits of its checksum take the two places."""

    member_id: WireMemberId
    incarnation: MonotonicCounter


class SyncOffer(Message, tag=49):
    """What the answerer holds in the buckets that differ. This is part ``part`` of ``parts``."""

    part: Annotated[int, msgspec.Meta(ge=0, lt=1024)]
    parts: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    buckets: Annotated[bytes, msgspec.Meta(max_length=BUCKETS)]
    """The buckets that this part lists completely."""
    entries: Annotated[list[SyncEntry], msgspec.Meta(max_length=96)]


class SyncRequest(Message, tag=50):
    """Asks for rows. The answer is datagrams with :class:`Alive` or :class:`Tombstone` messages."""

    member_ids: Annotated[list[WireMemberId], msgspec.Meta(max_length=96)]


class SyncBusy(Message, tag=51):
    """The sender has too many syncs already. Ask another member."""


class KeyRingUpdate(Message, tag=80):
    """The whole key ring, the primary key first. Only ever sent sealed, to a member whose row is held."""

    version: MonotonicCounter
    keys: Annotated[list[GroupKey], msgspec.Meta(min_length=1, max_length=8)]

    def __repr__(self) -> str:
        """Leaves the keys out, so that no printed message shows them."""
        return f"KeyRingUpdate({self.version}, {len(self.keys)} key(s))"


class KeyRingReport(Message, tag=81):
    """Which key ring the sender holds, without its keys."""

    version: MonotonicCounter
    digest: Nonce
    names: Annotated[list[KeyName], msgspec.Meta(max_length=8)]
    ask: bool
    """Whether the receiver should report its own."""


AnyMessage = (
    Heartbeat
    | Ping
    | Ack
    | PingRequest
    | IndirectAck
    | Alive
    | Suspect
    | Leave
    | LeaveAck
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
"""Messages between hosts that need not know each other. All others are between members."""


_KINDS_BY_TAG_GROUP = ("heartbeat", "membership", "join", "sync", "policy", "keys")
"""The kind of a datagram by the high four bits of the message id (DATAGRAM_KINDS in membership/measurements.py). In the
first group only the heartbeat itself is one; the others are probes."""


def datagram_kind(tag: int) -> int:
    """The kind of a datagram whose first message has this id, as a position in DATAGRAM_KINDS."""
    group = tag >> 4
    if group >= len(_KINDS_BY_TAG_GROUP):
        return DATAGRAM_KINDS.index("other")
    return DATAGRAM_KINDS.index("probe" if 1 < tag < 16 else _KINDS_BY_TAG_GROUP[group])


LOAD_KIND = DATAGRAM_KINDS.index("load")
"""The kind of a datagram without messages."""
KIND_BY_TAG = [datagram_kind(tag) for tag in range(128)]
KIND_BY_TYPE: dict[type, int] = {
    message: datagram_kind(cast("int", message.__struct_config__.tag)) for message in get_args(AnyMessage)
}


class Payload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A decoded payload: the sender's generation and incarnation when it sent, its messages in order, and its load.

    Members of the version before ignore what stands behind the messages.
    """

    generation: MonotonicCounter
    incarnation: MonotonicCounter
    messages: Annotated[list[AnyMessage], msgspec.Meta(max_length=128)]
    load: Load | None = None
    """The sender's own."""
    under_way: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] | None = None
    """Requests that callers report to the sender as under way at the receiver's worker."""
    finished: MonotonicCounter | None = None
    """Requests that callers reported to the sender as answered by the receiver's worker. Only growth counts."""
    doubts: MonotonicCounter | None = None
    """How often callers told the sender that the receiver's worker failed them. Only growth counts."""


class UndecodablePayload(ValueError):
    """Authentic bytes that are not a payload: from another version, or from a broken peer."""


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Payload)

_SHORT_ARRAYS = [bytes((0x90 | count,)) for count in range(16)]

encode_message = _encode
"""Encodes one message."""
encode_field = _encode
"""Encodes a field behind the messages."""


def payload_prefix(generation: int, incarnation: int) -> bytes:
    """The first bytes of every payload of a member, until its incarnation changes."""
    return b"\x93" + _encode(generation) + _encode(incarnation)


def assemble(prefix: bytes, messages: list[bytes], fields: tuple[bytes, ...] = ()) -> bytes:
    """Build a payload from a prefix, at most 65535 encoded messages, and encoded fields to stand behind them."""
    count = len(messages)
    header = _SHORT_ARRAYS[count] if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    if fields:
        return b"".join((_SHORT_ARRAYS[3 + len(fields)], prefix[1:], header, *messages, *fields))
    return b"".join((prefix, header, *messages))


def decode_untrusted(data: bytes) -> Payload:
    """Decode the payload of an opened datagram. Raises only :class:`UndecodablePayload`."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodablePayload(str(error)) from None
