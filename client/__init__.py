"""How callers use the pool: a worker for every request, and a death they never see.

What enters here is what a caller needs: which sidecar to believe, whom to ask, when to ask another, and the httpx
transports that do it. Decisions are pure files (topology, standing, admission, answers, breaker, budget, course,
replay, hedging), each opening with its rules; around them are thin shells on anyio, so that everything runs on trio, on
asyncio and, through a thread, without either. The room knows the ring and its JSON, and nothing of gossip.
"""

from rumormill.client.descriptors import TooManyOpenFilesError
from rumormill.client.errors import NoWorkersError, PoolError, RequestNotReplayableError, ResponseInterruptedError
from rumormill.client.pool import Pool, PoolTransport
from rumormill.client.replay import Replay
from rumormill.client.retries import Attempt, Failure
from rumormill.client.sync import SyncPool, SyncPoolTransport
from rumormill.client.topology import Topology

__all__ = [
    "Attempt",
    "Failure",
    "NoWorkersError",
    "Pool",
    "PoolError",
    "PoolTransport",
    "Replay",
    "RequestNotReplayableError",
    "ResponseInterruptedError",
    "SyncPool",
    "SyncPoolTransport",
    "TooManyOpenFilesError",
    "Topology",
]
