"""What the bodies of pool policies hold: canary shares and rollouts, maintenance, the preferred zone.

Membership and gossip carry these bodies as bytes. They are decoded and checked here, with :data:`POLICY_SCHEMA` for
gossip, which spreads no policy that could not be read. Every bound on what a policy may say stands in this file; the
bounds on the record around it are in membership/policy.py.
"""

from __future__ import annotations

import functools
from typing import Annotated, Final, Literal

import msgspec

from rumormill.membership.policy import InvalidPolicy, Label, Milliseconds, PolicyRecord, PolicySchema

ALL_BASIS_POINTS: Final = 10_000
"""All keys, in basis points."""

BasisPoints = Annotated[int, msgspec.Meta(ge=0, le=ALL_BASIS_POINTS)]
PolicyKind = Literal["canary", "maintenance", "zone"]


class Share(msgspec.Struct, frozen=True, array_like=True):
    """A candidate release, and how many of 10 000 keys go to it."""

    release: Label
    share: BasisPoints


class Rollout(msgspec.Struct, frozen=True, array_like=True):
    """How far a guided rollout has come. It lives in the policy so that it outlives the program that guides it."""

    release: Label
    steps: Annotated[list[BasisPoints], msgspec.Meta(min_length=1, max_length=32)]
    hold: Annotated[float, msgspec.Meta(ge=0, le=31 * 86_400)]
    """Seconds for which each step must pass its gates."""
    gates: Annotated[list[Annotated[str, msgspec.Meta(max_length=400)]], msgspec.Meta(max_length=16)]
    prometheus: Annotated[str, msgspec.Meta(max_length=256)]
    """Where metric gates are read from; empty for none."""
    figures: Annotated[str, msgspec.Meta(max_length=256)]
    """The client's own metrics, a path or URL; empty for none."""
    position: Annotated[int, msgspec.Meta(ge=0, lt=32)]
    """The present step, from 0."""
    since: Milliseconds
    """When that step began."""
    state: Literal["running", "done", "failed", "aborted"]
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""


class CanaryPolicy(msgspec.Struct, frozen=True, array_like=True, tag="canary"):
    """Shares in the order in which the releases became candidates: the traffic split allots its slots in that order."""

    shares: Annotated[list[Share], msgspec.Meta(max_length=32)]
    rollout: Rollout | None = None


class Maintenance(msgspec.Struct, frozen=True, array_like=True, tag="maintenance"):
    """Workers that take no new work: the sidecar of each says *draining* while the worker is named here."""

    workers: Annotated[list[Label], msgspec.Meta(max_length=64)]


class ZonePreference(msgspec.Struct, frozen=True, array_like=True, tag="zone"):
    """The zone preferred by callers that name none of their own; empty for none."""

    zone: Annotated[str, msgspec.Meta(max_length=64)]


PolicyBody = CanaryPolicy | Maintenance | ZonePreference

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(PolicyBody)


def encode_body(body: PolicyBody) -> bytes:
    """The bytes of a body. Raises :class:`InvalidPolicy` where it breaks a bound."""
    encoded = _encoder.encode(body)
    decode_body_untrusted(encoded)
    return encoded


@functools.lru_cache(maxsize=4096)
def decode_body_untrusted(encoded: bytes) -> PolicyBody:
    """Bytes from anywhere to a checked body. Raises :class:`InvalidPolicy`, nothing else."""
    try:
        body = _decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPolicy(str(error)) from None
    _validate(body)
    return body


def body_of(record: PolicyRecord) -> PolicyBody:
    """The body of a record. Raises :class:`InvalidPolicy`, which cannot happen for one that gossip has accepted."""
    return decode_body_untrusted(record.body)


def kind_of(record: PolicyRecord) -> PolicyKind:
    """The kind of a record. Raises as :func:`body_of`."""
    match body_of(record):
        case CanaryPolicy():
            return "canary"
        case Maintenance():
            return "maintenance"
        case ZonePreference():
            return "zone"


def describe_policy(record: PolicyRecord) -> str:
    """One policy in words."""
    of_service = f" of {record.service}" if record.service else ""
    match body_of(record):
        case CanaryPolicy(shares, rollout):
            text = ", ".join(f"{share.release} {share.share / 100:g} %" for share in shares) or "none"
            progress = f" (rollout of {rollout.release}: {rollout.state})" if rollout else ""
            return f"canary{of_service}: {text}{progress}"
        case Maintenance(workers):
            return f"maintenance{of_service}: {', '.join(workers) or 'nobody'}"
        case ZonePreference(zone):
            return f"preferred zone{of_service}: {zone or 'none'}"


def _validate_record(record: PolicyRecord) -> None:
    body_of(record)


POLICY_SCHEMA: Final = PolicySchema(validate=_validate_record, describe=describe_policy)


def _validate(body: PolicyBody) -> None:
    match body:
        case CanaryPolicy(shares, rollout):
            _validate_shares(shares)
            if rollout is not None and rollout.position >= len(rollout.steps):
                raise InvalidPolicy("the rollout's step index is out of range")
        case Maintenance(workers):
            _validate_names("worker", workers)
        case ZonePreference(zone):
            _validate_names("zone", [zone])


def _validate_shares(shares: list[Share]) -> None:
    _validate_names("release", [share.release for share in shares])
    total = sum(share.share for share in shares)
    if total > ALL_BASIS_POINTS:
        raise InvalidPolicy(f"the shares add up to {total / 100:g} %, more than 100 %")


def _validate_names(field: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise InvalidPolicy(f"a {field} is named twice")
    for name in names:
        if not name.isprintable():
            raise InvalidPolicy(f"a {field} contains unprintable characters")
