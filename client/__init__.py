"""How callers use a pool: a worker for every request, and failovers that they never see.

This package holds what a caller needs: which sidecar to trust, which worker to try, when to try another, and the httpx2
transports that do it. Decisions are pure modules (topology, worker_selector, admission, breaker, retries, replay,
hedging, retry_budget, response_class). Each opens with its rules. Thin shells on anyio surround them, so that
everything runs on trio, on asyncio and, through a thread, without either. The package imports the ring and its JSON,
and nothing of gossip.

Every type that a public method returns can be imported from here.
"""

from rumormill.client.descriptors import TooManyOpenFilesError
from rumormill.client.errors import NoWorkersError, PoolError, RequestNotReplayableError, ResponseInterruptedError
from rumormill.client.fallbacks import DefaultAnswer, FallbackUsed, OtherService, StaleAnswer
from rumormill.client.figures import Figures
from rumormill.client.figures_parts import ReleaseFigures
from rumormill.client.keys import RequestView
from rumormill.client.options import PoolOptions
from rumormill.client.pool import Pool
from rumormill.client.replay import Replay
from rumormill.client.retries import Attempt, Failure
from rumormill.client.sync import SyncPool
from rumormill.client.topology import Topology
from rumormill.client.transports import PoolTransport, SyncPoolTransport
from rumormill.ring.routing import Routing
from rumormill.ring.worker import CanaryShare, RoutingPolicy, Worker

__all__ = [
    "Attempt",
    "CanaryShare",
    "DefaultAnswer",
    "Failure",
    "FallbackUsed",
    "Figures",
    "NoWorkersError",
    "OtherService",
    "Pool",
    "PoolError",
    "PoolOptions",
    "PoolTransport",
    "ReleaseFigures",
    "Replay",
    "RequestNotReplayableError",
    "RequestView",
    "ResponseInterruptedError",
    "Routing",
    "RoutingPolicy",
    "StaleAnswer",
    "SyncPool",
    "SyncPoolTransport",
    "TooManyOpenFilesError",
    "Topology",
    "Worker",
]
