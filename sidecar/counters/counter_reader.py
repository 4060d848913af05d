"""Fetches the page with the engine's counters, and keeps what it last said."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

import trio

from rumormill.gossip.udp.transport import boot_clock
from rumormill.sidecar.counters.reading import BadCounters, CounterReading
from rumormill.sidecar.engines import Counters, OllamaCounters
from rumormill.sidecar.http_exchange import NotHttp, ResponseReader, close, connect, describe_error, encode_request
from rumormill.sidecar.settings_values import WorkerUrl
from rumormill.sidecar.worker_load import WorkerLoad

MAX_PAGE_BYTES: Final = 1 << 20
"""vLLM's page has some 100 KB. Reading a megabyte holds up gossip for about 5 ms."""
PAGE_TIMEOUT: Final = 2.0
"""Seconds. An engine that shares a thread with its page may take long; with more, a frozen page hides others for
longer."""
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


class CounterReader:
    """Reads one worker's counters."""

    def __init__(self) -> None:
        self._source: CounterSource | None = None
        self._request = b""
        self._tls: ssl.SSLContext | None = None
        self.latest: WorkerLoad | None = None
        """What was read last; None while nothing is known of how busy the worker is."""

    def configure(self, source: CounterSource | None) -> None:
        """Read these counters from now on."""
        if source != self._source:
            self._source, self.latest = source, None
            self._request = encode_request(source.url, source.path) if source else b""
            self._tls = ssl.create_default_context() if source and source.url.secure else None

    async def read(self) -> CounterReading:
        """Fetch the page once. Raises :class:`BadCounters` if it cannot be had or understood."""
        source = self._source
        if source is None:
            raise BadCounters("no counters are configured")
        try:
            found = _parse(await self._fetch(source), source.counters)
        except BadCounters:
            if self.latest is not None and boot_clock() - self.latest.read_at > KEEP_SECONDS:
                self.latest = None
            raise
        self.latest = found.worker_load(source.capacity, boot_clock())
        return found

    async def _fetch(self, source: CounterSource) -> bytes:
        where = f"{source.url}{source.path}"
        try:
            with trio.fail_after(PAGE_TIMEOUT):
                response = await self._exchange(source)
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

    async def _exchange(self, source: CounterSource) -> ResponseReader:
        stream = await connect(source.url.endpoint, self._tls)
        try:
            await stream.send_all(self._request)
            response = ResponseReader(MAX_PAGE_BYTES + 1)
            while not response.complete and response.bytes_read <= 2 * MAX_PAGE_BYTES:
                data = await stream.receive_some(1 << 16)
                response.feed_untrusted(data)
                if not data:
                    break
            return response
        finally:
            close(stream)


def _parse(page: bytes, counters: Counters) -> CounterReading:
    """Each parser is imported when it is first needed: most agents need none."""
    if isinstance(counters, OllamaCounters):
        from rumormill.sidecar.counters.ollama_models import read_ollama_untrusted

        return read_ollama_untrusted(page)
    from rumormill.sidecar.counters.prometheus_page import read_prometheus_untrusted

    return read_prometheus_untrusted(page, counters)
