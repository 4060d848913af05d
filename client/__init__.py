"""How callers use a pool: a worker for every request, and failovers that they never see.

pool.py and sync.py are what callers open, with the options of options.py and the errors of errors.py. Behind them stand
these rooms, from the caller inwards:

- transports: what an HTTP client takes, and what a caller gets when no worker can serve
- requests: one request from its beginning to its one answer
- rules: what decides about one request: replay, retries, deadline, hedging. Pure
- selection: which worker is asked next. Pure
- connections: the connections to each worker, and the requests in flight on them
- discovery: which sidecar is believed, and what it says
- observability: figures by release, and OpenTelemetry
- runtime: event loop, locks, timer, file descriptors

Each module opens with its rules. The shells run on trio, on asyncio and, over blocking sockets, without either. The
package imports the ring and the JSON of discovery, and nothing of gossip.

Every type that a public method returns can be imported from here.
"""

from rumormill.client.discovery.topology import Topology
from rumormill.client.errors import NoWorkersError, PoolError, RequestNotReplayableError, ResponseInterruptedError
from rumormill.client.keys import RequestView
from rumormill.client.observability.events import (
    BreakerEvent,
    FallbackEvent,
    PanicEvent,
    PoolEvent,
    PoolEvents,
    SyncPoolEvents,
    TopologyEvent,
)
from rumormill.client.observability.figures import Figures
from rumormill.client.observability.figures_parts import ReleaseFigures
from rumormill.client.observability.pool_figures import PoolFigures
from rumormill.client.options import PoolOptions
from rumormill.client.pool import Pool
from rumormill.client.rules.replay import Replay
from rumormill.client.rules.response_class import AnswerVerdict
from rumormill.client.rules.retries import Attempt, Failure
from rumormill.client.rules.verdicts import ResponseView
from rumormill.client.runtime.descriptors import TooManyOpenFilesError
from rumormill.client.selection.breaker import OpenReason
from rumormill.client.selection.explanation import KeyExplanation, PlaceReason, WorkerPlace
from rumormill.client.sync import SyncPool
from rumormill.client.transports.fallbacks import DefaultAnswer, FallbackUsed, OtherService, StaleAnswer
from rumormill.client.transports.pool_transports import PoolTransport, SyncPoolTransport
from rumormill.ring.routing import Routing
from rumormill.ring.worker import CanaryShare, RoutingPolicy, Worker

__all__ = [
    "AnswerVerdict",
    "Attempt",
    "BreakerEvent",
    "CanaryShare",
    "DefaultAnswer",
    "Failure",
    "FallbackEvent",
    "FallbackUsed",
    "Figures",
    "KeyExplanation",
    "NoWorkersError",
    "OpenReason",
    "OtherService",
    "PanicEvent",
    "PlaceReason",
    "Pool",
    "PoolError",
    "PoolEvent",
    "PoolEvents",
    "PoolFigures",
    "PoolOptions",
    "PoolTransport",
    "ReleaseFigures",
    "Replay",
    "RequestNotReplayableError",
    "RequestView",
    "ResponseInterruptedError",
    "ResponseView",
    "Routing",
    "RoutingPolicy",
    "StaleAnswer",
    "SyncPool",
    "SyncPoolEvents",
    "SyncPoolTransport",
    "TooManyOpenFilesError",
    "Topology",
    "TopologyEvent",
    "Worker",
    "WorkerPlace",
]
