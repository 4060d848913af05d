"""Fetches the page with the engine's counters, and keeps what it last said.

It keeps its connection too, if the engine does: that halves what a reading costs. The check and the probes make new
ones, because they ask whether the worker takes any.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from rumormill.gossip.udp.transport import boot_clock
from rumormill.sidecar.counters.reading import BadCounters, CounterReading
from rumormill.sidecar.engines import CapacityPage, Counters, OllamaCounters
from rumormill.sidecar.http_exchange import (
    NotHttp,
    ResponseReader,
    Stream,
    close,
    connect,
    describe_error,
    encode_request,
)
from rumormill.sidecar.settings_values import WorkerUrl
from rumormill.sidecar.worker_load import WorkerLoad

MAX_PAGE_BYTES: Final = 1 << 20
"""vLLM's page has some 100 KB. Reading a megabyte holds up gossip for about 5 ms."""
PAGE_TIMEOUT: Final = 2.0
"""Seconds. An engine that shares a thread with its page may take long; with more, a frozen page hides others for
longer."""
MAX_CAPACITY: Final = 1_000_000
"""Requests at once. More is nonsense."""
KEEP_SECONDS: Final = 3.0
"""For how long the latest figures stand while the page cannot be read."""


@dataclass(frozen=True, slots=True)
class CounterSource:
    """Where the counters are."""

    url: WorkerUrl
    path: str
    counters: Counters
    capacity: int | None = None
    """Requests that the worker works on at once at most, if known."""
    capacity_page: CapacityPage | None = None
    """Where it says so itself, if that is not known."""


class CounterReader:
    """Reads one worker's counters."""

    def __init__(self) -> None:
        self._source: CounterSource | None = None
        self._stated_capacity: int | None = None
        """What the worker says of its capacity; 0 if it does not say."""
        self._tls: ssl.SSLContext | None = None
        self._kept: Stream | None = None
        """An open connection for the next reading."""
        self.latest: WorkerLoad | None = None
        """What was read last; None while nothing is known of how busy the worker is."""

    def configure(self, source: CounterSource | None) -> None:
        """Read these counters from now on."""
        if source != self._source:
            self.close()
            self._source, self.latest, self._stated_capacity = source, None, None
            self._tls = ssl.create_default_context() if source and source.url.secure else None

    def close(self) -> None:
        """Close the connection. The next reading opens another."""
        if self._kept is not None:
            close(self._kept)
            self._kept = None

    async def read(self) -> CounterReading:
        """Fetch the page once. Raises :class:`BadCounters` if it cannot be had or understood."""
        source = self._source
        if source is None:
            raise BadCounters("no counters are configured")
        try:
            found = _parse(await self._fetch(source, source.path), source.counters)
        except BadCounters:
            self._stated_capacity = None  # another process may answer next
            if self.latest is not None and boot_clock() - self.latest.read_at > KEEP_SECONDS:
                self.latest = None
            raise
        if self._stated_capacity is None:
            self._stated_capacity = await self._ask_capacity(source)
        self.latest = found.worker_load(source.capacity or self._stated_capacity, boot_clock())
        return found

    async def _ask_capacity(self, source: CounterSource) -> int:
        """What the worker says of its capacity; 0 if it says nothing that makes sense."""
        page = source.capacity_page
        if page is None or source.capacity:
            return 0
        try:
            stated = msgspec.json.decode(await self._fetch(source, page.path), type=dict[str, Any]).get(page.key)
        except (BadCounters, msgspec.DecodeError, UnicodeDecodeError):
            return 0
        return stated if type(stated) is int and 0 < stated <= MAX_CAPACITY else 0

    async def _fetch(self, source: CounterSource, path: str) -> bytes:
        where = f"{source.url}{path}"
        try:
            with trio.fail_after(PAGE_TIMEOUT):
                response = await self._exchange(source, path)
        except trio.TooSlowError:
            raise BadCounters(f"{where} did not answer within {PAGE_TIMEOUT:g} s") from None
        except trio.BrokenResourceError as error:
            raise BadCounters(f"{where}: {describe_error(error.__cause__, source.url.endpoint)}") from None
        except OSError as error:
            raise BadCounters(f"{where}: {describe_error(error, source.url.endpoint)}") from None
        except NotHttp:
            raise BadCounters(f"{where} does not answer in HTTP") from None
        if len(response.body) > MAX_PAGE_BYTES:
            raise BadCounters(f"{where} is longer than {MAX_PAGE_BYTES >> 20} MiB")
        if response.status != 200 or not response.complete:
            raise BadCounters(f"{where} answered {response.status or 'nothing'}")
        return bytes(response.body)

    async def _exchange(self, source: CounterSource, path: str) -> ResponseReader:
        request = encode_request(source.url, path, keep=True)
        kept, self._kept = self._kept, None
        if kept is not None:
            with contextlib.suppress(OSError, trio.BrokenResourceError):
                if (response := await self._ask(kept, request)).bytes_read:
                    return response
        return await self._ask(await connect(source.url.endpoint, self._tls), request)

    async def _ask(self, stream: Stream, request: bytes) -> ResponseReader:
        """Ask on this connection, and keep it for the next time if that can be."""
        response = ResponseReader(MAX_PAGE_BYTES + 1)
        try:
            await stream.send_all(request)
            while not response.complete and response.bytes_read <= 2 * MAX_PAGE_BYTES:
                data = await stream.receive_some(1 << 18)
                response.feed_untrusted(data)
                if not data:
                    break
        finally:
            if response.reusable:
                self._kept = stream
            else:
                close(stream)
        return response


def _parse(page: bytes, counters: Counters) -> CounterReading:
    """Each parser is imported when it is first needed: most agents need none."""
    if isinstance(counters, OllamaCounters):
        from rumormill.sidecar.counters.ollama_models import read_ollama_untrusted

        return read_ollama_untrusted(page)
    from rumormill.sidecar.counters.prometheus_page import read_prometheus_untrusted

    return read_prometheus_untrusted(page, counters)
