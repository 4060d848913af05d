"""The options of a pool, declared, defaulted, checked and documented once for :class:`Pool` and :class:`SyncPool`."""

from __future__ import annotations

import inspect
import random
import ssl
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, fields
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rumormill.client.rules.replay import Replay, checked_replay
from rumormill.client.rules.verdicts import Classify

UNIX = "unix:"
"""Prefix of the address of a sidecar that listens on a Unix domain socket."""


@dataclass(eq=False, repr=False)
class PoolOptions:
    """Both pools inherit this constructor, so they take the same arguments. They raise ValueError, with a hint.

    Change no option of a pool that is open.
    """

    sources: str | Iterable[str]
    """Base URLs of sidecars, or ``unix:PATH``. With more than one, the pool keeps its view when a sidecar dies."""
    service: str
    """The service whose workers are called."""
    _: KW_ONLY
    cluster: str | None = None
    """The cluster to insist on. None takes the cluster that most sources are in."""
    replay: Replay = "idempotent"
    """Which requests may be sent again: `idempotent` ones, `always`, or `never`."""
    hedge: bool = True
    """Whether to ask the next owner too when an answer is late. Only requests that may be sent again are hedged."""
    hedge_after: float | None = None
    """Seconds after which an answer is late. None takes 1.25 times the 95th percentile of its kind of
    request, at least 50 ms."""
    classify: Classify | None = None
    """Judges each answer by more than its status, such as a 200 with an error inside. None goes by the status."""
    zone: str | None = None
    """The caller's own zone, whose workers it prefers. None follows the pool's policy, and "" prefers no zone."""
    bounded_load: bool = True
    """False keeps every key at its first owner, however busy that worker is."""
    snapshot: str | Path | None = None
    """A file for the last good list of workers. A pool that starts while no sidecar answers reads it."""
    token: str | None = None
    """The bearer token for the sidecars."""
    verify: ssl.SSLContext | None = None
    """The TLS settings for sidecars and workers that speak https."""
    patience: float = 2.0
    """Seconds that opening the pool waits for the first list of workers."""
    telemetry: bool = True
    """Whether to give OpenTelemetry a span for each attempt, and metrics, if its package is installed."""
    rng: random.Random | None = None
    """Makes the random choices reproducible. With None, every opening draws its own seed, in forked processes too."""

    def __post_init__(self) -> None:
        if not self.service:
            raise ValueError('service="" is no service; name the one to call, such as service="embed"')
        if self.cluster == "":
            raise ValueError('cluster="" is no cluster; name the one to insist on, or leave it out')
        urls = [self.sources] if isinstance(self.sources, str) else self.sources
        self.sources = tuple(map(_checked_source, dict.fromkeys(urls)))
        if not self.sources:
            raise ValueError('a pool needs a sidecar to ask, such as ["http://127.0.0.1:7380"]')
        checked_replay(self.replay)
        if self.hedge_after is not None and not 0 < self.hedge_after < inf:
            raise ValueError(f"hedge_after={self.hedge_after!r} is no time; give seconds, such as 0.2, or leave it out")
        if self.classify is not None and (not callable(self.classify) or inspect.iscoroutinefunction(self.classify)):
            raise ValueError("classify= takes a plain function of a ResponseView; it cannot be async, or anything else")

    def as_arguments(self) -> dict[str, Any]:
        """The arguments that construct another pool with the same options."""
        return {option.name: getattr(self, option.name) for option in fields(PoolOptions)}


def _checked_source(url: str) -> str:
    if url.startswith(f"{UNIX}/"):
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no sidecar's URL; give its HTTP address, such as 'http://127.0.0.1:7380'")
    return url.rstrip("/")
