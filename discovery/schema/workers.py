"""The answer that callers route by: the workers of one service.

The discovery endpoint writes it and the client library reads it, so the two cannot drift apart. Field names and their
order are a contract; the JSON is what :func:`msgspec.json.encode` makes of the structure.
"""

from __future__ import annotations

import msgspec

from rumormill.ring.worker import RoutingPolicy, Worker


class WorkersAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/workers``, and the data of each event of ``GET /v1/watch``."""

    cluster: str
    service: str
    index: int
    """Counts this process's changes of the answer; never below 1."""
    process: str
    """Which run of the sidecar counts: an index of another process means nothing here."""
    routing_digest: str
    """16 hexadecimal digits; equal digests mean equal owners for every key."""
    isolated: bool
    policy: RoutingPolicy
    workers: list[Worker]
