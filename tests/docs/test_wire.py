"""The wire page is exact: its tables are those of the code, and what it says is enough to read recorded datagrams.

The recorded datagrams are opened with ``cryptography`` and read with the ``msgpack`` package, by the page alone and
without the program's own codec and seal. record_datagrams.py records them again.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import inspect

from rumormill.discovery.schema import policy_bodies
from rumormill.gossip import wire
from rumormill.membership import policy
from rumormill.membership.record import WIRE_VERSION, Record

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "wire.md").read_text()
RECORDED = json.loads((Path(__file__).parent / f"datagrams-{WIRE_VERSION}.json").read_text())
DATAGRAMS = [(bytes.fromhex(d["datagram"]), bytes.fromhex(d["payload"])) for d in RECORDED["datagrams"]]
RECORDINGS = sorted(Path(__file__).parent.glob("datagrams-*.json"))
"""One of each version."""
BITS = {"uint32": 32, "uint40": 40, "uint53": 53}


class Field(NamedTuple):
    name: str
    type: str


class Table(NamedTuple):
    """What the page says of one array: its message id or word, if it has one, and its fields in order."""

    tag: int | str | None
    fields: list[Field]


def tables() -> dict[str, Table]:
    found = {}
    for title, body in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL):
        tag, name = re.fullmatch(r"(?:(\d+|`\w+`) )?(\w+)", title).groups()  # type: ignore[union-attr]
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", body, re.MULTILINE)
        number = int(tag) if tag and tag.isdigit() else tag and tag.strip("`")
        found[name] = Table(number, [Field(*row) for row in rows])
    return found


TABLES = tables()


# --- the page beside the code

RAW: dict[type, str] = {
    wire.PolicyMessage: "PolicyRecord",
    policy.PolicyEnvelope: "CanaryPolicy or Maintenance or ZonePreference",
}
"""What the fields hold that one room carries for another to read."""


def structs() -> dict[str, type]:
    """Everything that stands in a payload, by name: the messages, and the arrays inside them."""
    held: dict[str, type] = {}
    waiting: list[Any] = [wire.Payload, Record, *policy_bodies.PolicyBody.__args__]
    while waiting:
        kind = waiting.pop()
        held[kind.__name__] = kind
        for inner in inspect.type_info(kind).fields:  # type: ignore[attr-defined]
            waiting += [one for one in structs_in(inner.type) if one.__name__ not in held]
    return {**held, "PolicyRecord": policy.PolicyEnvelope}


def structs_in(kind: inspect.Type) -> list[type]:
    match kind:
        case inspect.StructType():
            return [kind.cls]
        case inspect.ListType():
            return structs_in(kind.item_type)
        case inspect.UnionType():
            return [cls for inner in kind.types for cls in structs_in(inner)]
    return []


def type_text(kind: inspect.Type, owner: type) -> str:
    """A type in the words of the page."""
    match kind:
        case inspect.RawType():
            return RAW.get(owner, "Record")
        case inspect.DictType():
            return f"map of {type_text(kind.key_type, owner)} to {type_text(kind.value_type, owner)}"
        case inspect.ListType():
            return f"list {sizes(kind)} of {type_text(kind.item_type, owner)}"
        case inspect.StructType():
            return kind.cls.__name__
        case inspect.UnionType() if owner is wire.Payload and len(kind.types) > 2:
            return "message"
        case inspect.UnionType():
            return " or ".join(sorted((type_text(inner, owner) for inner in kind.types), key=lambda t: (t == "nil", t)))
    return plain_text(kind)


def plain_text(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "bool"
        case inspect.NoneType():
            return "nil"
        case inspect.IntType():
            top = kind.le if kind.le is not None else (kind.lt or 0) - 1
            named = [name for name, bits in BITS.items() if kind.ge == 0 and top == 2**bits - 1]
            return named[0] if named else f"{kind.ge}..{top}"
        case inspect.FloatType():
            return f"float {kind.ge:.0f}..{kind.le:.0f}"
        case inspect.BytesType() | inspect.StrType():
            return f"{'bin' if isinstance(kind, inspect.BytesType) else 'str'} {sizes(kind)}"
        case inspect.LiteralType():
            return " / ".join(str(value) for value in kind.values)
        case inspect.EnumType():
            return " / ".join(str(member.value) for member in kind.cls)
    raise AssertionError(f"the page has no word for {kind}")


def sizes(kind: Any) -> str:
    low, high = kind.min_length or 0, kind.max_length
    return "any" if high is None else str(high) if low == high else f"{low}..{high}"


def fields_of(kind: type) -> list[Field]:
    fields = inspect.type_info(kind).fields  # type: ignore[attr-defined]
    return [Field(f.name, type_text(f.type, kind) + ("" if f.required else ", optional")) for f in fields]


def test_the_page_has_every_message_and_every_array_of_the_code_and_no_other() -> None:
    expected = {name: Table(kind.__struct_config__.tag, fields_of(kind)) for name, kind in structs().items()}
    assert expected == TABLES


def test_the_messages_stand_in_the_order_of_their_ids() -> None:
    numbers = [table.tag for table in TABLES.values() if isinstance(table.tag, int)]
    assert numbers == sorted(numbers)
    assert len(numbers) == 25


# --- reading by the page alone


def check(value: Any, kind: str, where: str) -> None:
    """Whether a value is of a type, in the words of the page. Of arrays, field by field."""
    if " or " in kind:
        check_choice(value, kind.split(" or "), where)
    elif kind in TABLES:
        check_array(value, kind, where)
    elif match := re.fullmatch(r"list (\S+) of (.*)", kind):
        assert isinstance(value, list), where
        check_size(len(value), match[1], where)
        for number, item in enumerate(value):
            check(item, match[2], f"{where}[{number}]")
    elif match := re.fullmatch(r"(bin|str) (\S+)", kind):
        assert isinstance(value, bytes if match[1] == "bin" else str), where
        check_size(len(value), match[2], where)
    elif match := re.fullmatch(r"map of (.*) to (.*)", kind):
        assert isinstance(value, dict), where
        for key, inner in value.items():
            check(key, match[1], where)
            check(inner, match[2], where)
    elif kind == "message":
        check_message(value, where)
    else:
        check_plain(value, kind, where)


def check_plain(value: Any, kind: str, where: str) -> None:
    if kind == "bool":
        assert isinstance(value, bool), where
    elif kind == "nil":
        assert value is None, where
    elif kind.startswith("float "):
        low, high = map(float, kind.removeprefix("float ").split(".."))
        assert low <= value <= high, where
    elif " / " in kind:
        assert str(value) in kind.split(" / "), where
    else:
        assert type(value) is int, where
        low, high = (0, 2 ** BITS[kind] - 1) if kind in BITS else tuple(map(int, kind.split("..")))
        assert low <= value <= high, where


def check_choice(value: Any, kinds: list[str], where: str) -> None:
    if value is None:
        assert "nil" in kinds, where
        return
    kinds = [kind for kind in kinds if kind != "nil"]
    named = [kind for kind in kinds if TABLES[kind].tag in (None, value[0])]
    assert len(named) == 1, where
    check(value, named[0], where)


def check_size(length: int, allowed: str, where: str) -> None:
    low, _, high = allowed.partition("..")
    if allowed != "any":
        assert int(low) <= length <= int(high or low), where


def check_message(value: Any, where: str) -> None:
    named = [name for name, table in TABLES.items() if table.tag == value[0]]
    assert len(named) == 1, f"{where}: there is no message {value[0]}"
    check_array(value, named[0], where)


def check_array(value: Any, name: str, where: str) -> None:
    table = TABLES[name]
    items = list(value)
    if table.tag is not None:
        assert items.pop(0) == table.tag, where
    required = sum(not field.type.endswith(", optional") for field in table.fields)
    assert required <= len(items) <= len(table.fields), f"{where}: {name} of {len(items)} fields"
    for item, field in zip(items, table.fields, strict=False):
        check(item, field.type.removesuffix(", optional"), f"{where}.{name}.{field.name}")


def messages(payload: bytes) -> list[Any]:
    found: list[Any] = msgpack.unpackb(payload)[2]
    return found


@pytest.mark.parametrize("number", range(len(DATAGRAMS)))
def test_msgpack_reads_a_recorded_payload_field_by_field_as_the_page_says(number: int) -> None:
    check(msgpack.unpackb(DATAGRAMS[number][1]), "Payload", f"datagram {number}")


def test_every_message_was_recorded() -> None:
    recorded = {message[0] for _, payload in DATAGRAMS for message in messages(payload)}
    assert recorded == {table.tag for table in TABLES.values() if isinstance(table.tag, int)}


def test_the_reader_by_the_page_refuses_what_the_page_does_not_say() -> None:
    payload = msgpack.unpackb(DATAGRAMS[0][1])
    payload[2] = [[99]]
    with pytest.raises(AssertionError, match="no message 99"):
        check(payload, "Payload", "forged")
    payload[2] = [[2, b"seven.."]]
    with pytest.raises(AssertionError, match=r"Ping\.nonce"):
        check(payload, "Payload", "forged")


# --- opening by the page alone

HEADER = struct.Struct(">BB8s8s8sQ")
GROUP_KEYS = [bytes.fromhex(key) for key in RECORDED["group_keys"]]
LABEL = hashlib.sha256(b"rumormill label" + RECORDED["cluster"].encode()).digest()[:8]
MEMBERS = {
    bytes.fromhex(m["public"]): X25519PrivateKey.from_private_bytes(bytes.fromhex(m["private"]))
    for m in RECORDED["members"]
}


def instance_of(public: bytes) -> bytes:
    return hashlib.sha256(public).digest()[:16]


PUBLIC = {instance_of(public)[:8]: public for public in MEMBERS}


def derived(secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=LABEL, info=info).derive(secret)


def key_of(group_key: bytes, kind: int, sender: bytes, receiver: bytes) -> bytes:
    if kind == 0x12:
        return derived(group_key, b"rumormill 1 stranger" + sender, 32)
    ours, theirs = PUBLIC[receiver], PUBLIC[sender]
    shared = MEMBERS[ours].exchange(X25519PublicKey.from_public_bytes(theirs[32:]))
    low, high = sorted((instance_of(ours), instance_of(theirs)))
    both = derived(group_key + shared, b"rumormill 1 pair" + low + high, 64)
    return both[:32] if instance_of(theirs) == low else both[32:]


@pytest.mark.parametrize("number", range(len(DATAGRAMS)))
def test_a_recorded_datagram_opens_as_the_page_says(number: int) -> None:
    datagram, payload = DATAGRAMS[number]
    kind, key_id, label, sender, receiver, counter = HEADER.unpack(datagram[:34])
    assert kind in (0x10, 0x12)
    assert label == LABEL
    assert len(datagram) <= 1232
    (group_key,) = (k for k in GROUP_KEYS if hashlib.sha256(b"rumormill key id" + k).digest()[0] == key_id)
    key = key_of(group_key, kind, sender, receiver)
    assert AESGCM(key).decrypt(bytes(4) + counter.to_bytes(8, "big"), datagram[34:], datagram[:34]) == payload


def test_signatures_are_over_what_the_page_says() -> None:
    """Of records, goodbyes and votes: those in the recording whose signers' keys are known."""
    checked = set()
    for _, payload in DATAGRAMS:
        for message in messages(payload):
            for signer, signature, text in signed_in(message):
                Ed25519PublicKey.from_public_bytes(PUBLIC[signer][:32]).verify(signature, text)
                checked.add(text[0])
    assert checked == {0x10, 0x12, 0x14}


def signed_in(message: Any) -> list[tuple[bytes, bytes, bytes]]:
    """Signer, signature and text of what is signed in one message."""
    match message[0]:
        case 16:
            records = [(message[1], message[2])]
        case 34:
            records = [(message[3], message[4])]
        case 35:
            records = [tuple(signed) for signed in message[4]]
        case 18:
            instance = instance_of(PUBLIC[message[1]])
            return [(message[1], message[3], b"\x12" + LABEL + instance + message[2].to_bytes(8, "big"))]
        case 20:
            return [vote_text(message[1], message[2], message[3])]
        case 21:
            return [vote_text(message[1], message[2], vote) for vote in message[3]]
        case _:
            records = []
    return [(instance_of(r[4])[:8], signature, b"\x10" + LABEL + msgpack.packb(r)) for r, signature in records]


def vote_text(subject: bytes, incarnation: int, vote: Any) -> tuple[bytes, bytes, bytes]:
    voter, stamp, _, signature = vote
    instances = instance_of(PUBLIC[voter]) + instance_of(PUBLIC[subject])
    numbers = incarnation.to_bytes(8, "big") + stamp.to_bytes(8, "big")
    return voter, signature, b"\x14" + LABEL + instances + numbers


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_our_own_decoder_and_the_page_read_the_recordings_of_all_versions(path: Path) -> None:
    """A datagram of a recording is one of its version for good: what is recorded must stay readable."""
    for datagram in json.loads(path.read_text())["datagrams"]:
        payload = bytes.fromhex(datagram["payload"])
        assert len(wire.decode_untrusted(payload).messages) == len(messages(payload))
        check(msgpack.unpackb(payload), "Payload", path.stem)


def test_there_is_a_recording_of_each_version() -> None:
    assert [path.stem for path in RECORDINGS] == [f"datagrams-{version}" for version in range(1, WIRE_VERSION + 1)]
