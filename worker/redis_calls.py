"""What the Redis stores send, and how they read the replies. No connection is used here.

A claim is two keys. The lease is claimed with ``SET NX PX``, so Redis itself ends it. The record beside it names the
owner and holds the result. It outlives the lease, and so tells a call that was never begun from one whose owner died.
A script runs as one step, so nobody sees one key without the other.

The owner's token fences: a worker that wakes after another has taken its call over cannot renew, finish or release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rumormill.worker.stores import Abandoned, Claimed, ClaimRequest, ClaimState, Finished, Running

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script."""

    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of a script. `read` makes the result of its reply."""

    script: Script
    keys: tuple[bytes, ...]
    args: tuple[bytes | int, ...]
    read: Callable[[Any], T]


CLAIM = Script("""
local record = redis.call('HMGET', KEYS[1], 'token', 'fingerprint', 'result', 'attempt')
local token, fingerprint, result, attempt = record[1], record[2], record[3], tonumber(record[4] or 0)
if result then return {'finished', fingerprint, result} end
if token and token ~= ARGV[1] then
  if redis.call('EXISTS', KEYS[2]) == 1 then return {'running', fingerprint} end
  if ARGV[5] ~= '1' or fingerprint ~= ARGV[2] then return {'abandoned', fingerprint} end
end
if token == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
else
  if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[3]) then return {'running', ARGV[2]} end
  attempt = attempt + 1
  redis.call('HSET', KEYS[1], 'token', ARGV[1], 'fingerprint', ARGV[2], 'attempt', attempt)
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return {'claimed', attempt}
""")
RENEW = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")
FINISH = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'result', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('DEL', KEYS[2])
return 1
""")
RELEASE = Script("""
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
""")
APPEND = Script("""
local length = redis.call('LLEN', KEYS[1])
local place = nil
for i = length - 1, 0, -1 do
  if string.sub(redis.call('LINDEX', KEYS[1], i), 1, 16) == ARGV[1] then place = i break end
end
if place then redis.call('LSET', KEYS[1], place, ARGV[1] .. ARGV[2])
else redis.call('RPUSH', KEYS[1], ARGV[1] .. ARGV[2]) end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[3]), -1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
""")
TURNS = Script("return redis.call('LRANGE', KEYS[1], 0, -1)")
GET = Script("return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}")
PUT = Script("redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1")

SCRIPTS = (CLAIM, RENEW, FINISH, RELEASE, APPEND, TURNS, GET, PUT)


class Calls:
    """The calls of one store. `prefix` begins the name of every key that it uses."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()

    def claim(self, key: bytes, request: ClaimRequest) -> Call[ClaimState]:
        lease, total = _ms(request.lease), _ms(request.lease + request.window)
        args = (request.token, request.fingerprint, lease, total, int(request.take_over))
        return Call(CLAIM, self._claim_keys(key), args, _claim_state)

    def renew(self, key: bytes, request: ClaimRequest) -> Call[bool]:
        args = (request.token, _ms(request.lease), _ms(request.lease + request.window))
        return Call(RENEW, self._claim_keys(key), args, bool)

    def finish(self, key: bytes, request: ClaimRequest, result: bytes) -> Call[bool]:
        return Call(FINISH, self._claim_keys(key), (request.token, result, _ms(request.window)), bool)

    def release(self, key: bytes, request: ClaimRequest) -> Call[bool]:
        return Call(RELEASE, self._claim_keys(key), (request.token,), bool)

    def append(self, key: bytes, turn_id: bytes, turn: bytes, keep: int, ttl: float) -> Call[bool]:
        return Call(APPEND, (self._name(b"session", key),), (turn_id, turn, keep, _ms(ttl)), bool)

    def turns(self, key: bytes) -> Call[list[tuple[bytes, bytes]]]:
        return Call(TURNS, (self._name(b"session", key),), (), lambda reply: [(turn[:16], turn[16:]) for turn in reply])

    def get(self, key: bytes) -> Call[tuple[bytes, float] | None]:
        return Call(GET, (self._name(b"value", key),), (), _value)

    def put(self, key: bytes, value: bytes, ttl: float) -> Call[bool]:
        return Call(PUT, (self._name(b"value", key),), (value, _ms(ttl)), bool)

    def _claim_keys(self, key: bytes) -> tuple[bytes, bytes]:
        record = self._name(b"once", key)
        return record, record + b":lease"

    def _name(self, kind: bytes, key: bytes) -> bytes:
        # Callers choose keys, so a name has a digest of fixed length. Redis Cluster places by what is in braces.
        digest = hashlib.blake2b(key, digest_size=20).hexdigest().encode()
        return b"%s%s:{%s}" % (self._prefix, kind, digest)


def _ms(seconds: float) -> int:
    return max(int(seconds * 1000), 1)


def _claim_state(reply: list[Any]) -> ClaimState:
    match reply:
        case [b"claimed", attempt]:
            return Claimed(attempt)
        case [b"running", fingerprint]:
            return Running(fingerprint)
        case [b"abandoned", fingerprint]:
            return Abandoned(fingerprint)
        case [b"finished", fingerprint, result]:
            return Finished(fingerprint, result)
    raise ValueError(f"a claim was answered with {reply!r:.80}; use a client with decode_responses=False")


def _value(reply: list[Any]) -> tuple[bytes, float] | None:
    value, left = reply
    return None if value is None else (value, left / 1000)
