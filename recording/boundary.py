"""What a snapshot has in place of secrets, and of what belongs to its process."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rumormill.gossip import Node
from rumormill.gossip.dispatch import DatagramDispatch
from rumormill.gossip.dissemination.policy_replication import PolicyKey
from rumormill.gossip.reporting.load_view import LoadView
from rumormill.gossip.security.credentials import KEY_BYTES, Credential, MemberKeys
from rumormill.gossip.security.group_key import GroupKey
from rumormill.gossip.security.keyring import KeyRing
from rumormill.gossip.security.seal import HEADER_BYTES, SealPeer
from rumormill.membership.policy import PolicySchema
from rumormill.membership.record import instance_of, member_id_of
from rumormill.recording.snapshot import Outside
from rumormill.recording.tape import (
    PlayedRing,
    PlayedSeal,
    PlayedTape,
    RecordedTokens,
    RecordingSeal,
    Tape,
    placeholder,
)

_REBUILT: Mapping[type, tuple[str, ...]] = {DatagramDispatch: ("_handle",)}
"""Tables of functions."""
_LEFT_OUT = ("_tape", "_schema", "_segment", "_next_attempt", "recorder", "load_view")
"""Attributes of a recorded Node that no other Node has, and one that is made anew."""


def outside_for_writing(node: Node, tape: Tape, schema: PolicySchema) -> Outside:
    """How to write a recorded Node. Every secret it holds is replaced here; a test looks for them in records."""
    ring, version = node.keyring, node.key_version
    held = {key: placeholder(key) for key in (*(ring.keys if ring else ()), *node.inspect().removed_keys)}

    def translate(value: bytes) -> bytes:
        if len(value) == KEY_BYTES:
            return held.get(value, value)
        return tape.as_recorded(value) if len(value) > HEADER_BYTES else value

    return Outside(
        replace={
            type(node): lambda it: ("node", {k: v for k, v in vars(it).items() if k not in _LEFT_OUT}),
            type(schema): lambda _: ("policy_schema", None),
            RecordingSeal: lambda seal: ("seal", _seal_without_keys(seal)),
            RecordedTokens: lambda _: ("tokens", None),
            MemberKeys: lambda keys: ("member_keys", [keys.public, keys.certificate]),
            KeyRing: lambda it: (
                "ring",
                [[*map(placeholder, it.keys)], [*it.names], [*it.ids], version, it.digest(version)],
            ),
            GroupKey: lambda _: ("nothing", None),
            AESGCM: lambda _: ("nothing", None),
            PolicyKey: lambda key: ("policy_key", key.public),
            Credential: lambda it: ("credential", [it.name, it.certificate]),
        },
        blank={SealPeer: {"shared": b"", "key_in": b"", "key_out": b"", "sealer": None, "opener": None, "group": None}},
        left_out=_REBUILT,
        translate=translate,
    )


def _seal_without_keys(seal: RecordingSeal) -> dict[str, Any]:
    return {
        "label": seal.label,
        "member_id": seal.member_id,
        "counter": seal.counter,
        "peers": seal.peers,
        "_retired": seal._retired,
        "accepted_kinds": seal.accepted_kinds,
        "key_id": seal.key_id,
        "keyring": seal.keyring,
        "_header_start": seal._header_start,
        "_keys_by_id": {key_id: [] for key_id in seal._keys_by_id},
        "_primary": None,
        "_cached": deque(),
        "_keys": seal._keys,
    }


def outside_for_reading(tape: PlayedTape, schema: PolicySchema) -> Outside:
    """What a restored Node gets in place of what was replaced."""
    return Outside(
        provide={
            "node": _node,
            "policy_schema": lambda _: schema,
            "seal": lambda attributes: PlayedSeal.restored(tape, attributes),
            "tokens": lambda _: tape.token,
            "member_keys": lambda parts: _member_keys(tape, *parts),
            "ring": lambda parts: _ring(*parts),
            "nothing": lambda _: None,
            "policy_key": lambda public: PolicyKey(Ed25519PublicKey.from_public_bytes(public)),
            "credential": lambda parts: Credential(parts[0], bytes(KEY_BYTES), parts[1]),
            "raw": msgspec.Raw,
        },
        rebuild={DatagramDispatch: DatagramDispatch.build_handlers},
    )


def _node(attributes: dict[str, Any]) -> Node:
    node = object.__new__(Node)
    vars(node).update(attributes)
    node.load_view = LoadView(node._state, lambda: node._ahead)
    return node


def _member_keys(tape: PlayedTape, public: bytes, certificate: bytes) -> MemberKeys:
    keys = object.__new__(MemberKeys)
    keys.public, keys.certificate = public, certificate
    keys.instance = instance_of(public)
    keys.member_id = member_id_of(keys.instance)
    keys.sign = tape.sign
    return keys


def _ring(keys: list[bytes], names: list[str], ids: list[int], version: int, digest: bytes) -> KeyRing:
    return PlayedRing(tuple(keys), tuple(names), tuple(ids), {version: digest})
