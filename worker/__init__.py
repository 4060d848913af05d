"""What a worker's own program imports, so that a request which is sent twice acts once and a death loses no session.

Three parts stand side by side, and each takes a store. `Idempotency` and `Once` run a call once for its key. `Sessions`
keeps the last turns of a conversation. `AnswerCache` keeps answers that depend on nothing but the request. The rules
are in claim_rules.py, and what is promised stands in docs/run/effects.md.

A store in this process is the default. Workers share a store in Redis (`pip install "rumormill[redis]"`), which is
imported from its own module: `from rumormill.worker.redis_store import RedisStore`.

The room imports nothing else of ours. It runs on trio and asyncio, and `SyncOnce` and `SyncSessions` run in threads.
"""

from rumormill.worker.answer_cache import AnswerCache
from rumormill.worker.asgi import IncomingRequest
from rumormill.worker.claim_rules import Claim, ClaimRules
from rumormill.worker.claims import current_claim
from rumormill.worker.errors import (
    AnswerNotKeptError,
    BadKeyError,
    BodyTooLongError,
    ClaimLostError,
    EffectError,
    KeyReusedError,
    OutcomeUnknownError,
    StillRunningError,
    StoreUnavailableError,
)
from rumormill.worker.idempotency import Idempotency, header_key
from rumormill.worker.in_threads import InThreads
from rumormill.worker.memory_store import MemoryStore, SyncMemoryStore
from rumormill.worker.once import CallFailedError, Once, SyncOnce
from rumormill.worker.sessions import Sessions, SyncSessions, TurnTooLongError

__all__ = [
    "AnswerCache",
    "AnswerNotKeptError",
    "BadKeyError",
    "BodyTooLongError",
    "CallFailedError",
    "Claim",
    "ClaimLostError",
    "ClaimRules",
    "EffectError",
    "Idempotency",
    "InThreads",
    "IncomingRequest",
    "KeyReusedError",
    "MemoryStore",
    "Once",
    "OutcomeUnknownError",
    "Sessions",
    "StillRunningError",
    "StoreUnavailableError",
    "SyncMemoryStore",
    "SyncOnce",
    "SyncSessions",
    "TurnTooLongError",
    "current_claim",
    "header_key",
]
