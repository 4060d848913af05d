"""What is fuzzed: each target takes any bytes, and may raise nothing.

What a target documents as its refusal (an exception, a counter) it handles itself, so that whatever comes out of one is
a finding. They are the doors at which bytes of strangers come in: a datagram, what stands inside a good seal, a message
of a sync, an HTTP request, a TOML file, a key file, a worker's answer to a probe, a probe file, an engine's counters.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rumormill.discovery.api.router import Router
from rumormill.discovery.api.routes import ROUTES
from rumormill.discovery.http.access import Access, AccessControl
from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.request import RequestReader
from rumormill.discovery.http.response import RequestRejected
from rumormill.gossip import InvalidKey, Node
from rumormill.gossip.wire import LOAD_KIND, UndecodablePayload, decode_untrusted
from rumormill.membership.record import InvalidRecord, decode_record_untrusted
from rumormill.sidecar import SettingsError
from rumormill.sidecar.counters import BadCounters
from rumormill.sidecar.counters.ollama_models import read_ollama_untrusted
from rumormill.sidecar.counters.prometheus_page import read_prometheus_untrusted
from rumormill.sidecar.engines import ENGINES, PrometheusCounters
from rumormill.sidecar.key_file import parse_key_file
from rumormill.sidecar.probes.answers import TokenStream, error_text_untrusted
from rumormill.sidecar.probes.dialogues import dialogue_of
from rumormill.sidecar.probes.expectations import NotExpected
from rumormill.sidecar.probes.probe_check import BadProbe
from rumormill.sidecar.probes.probe_file import parse_probe
from rumormill.sidecar.probes.specification import (
    ChatSpec,
    CompletionsSpec,
    EmbeddingsSpec,
    HttpExpect,
    HttpSpec,
    KserveSpec,
    TextExpect,
    VectorExpect,
)
from rumormill.sidecar.settings_sources import load
from rumormill.simulations import World

Target = Callable[[bytes], None]
FRESH_EVERY = 2000
"""Inputs after which a target that remembers what came before begins anew."""
STRANGER = ("198.51.100.1", 666)


class Pool:
    """Two members that know each other, in virtual time; whatever n1 says to n0 is sealed as n1 seals."""

    def __init__(self) -> None:
        self._left = 0

    def _node(self, key: str) -> Node:
        running = self._world.node(key)
        assert isinstance(running, Node)
        return running

    def _begin(self) -> None:
        if self._left:
            self._left -= 1
            return
        self._left = FRESH_EVERY
        self._world = World(seed=1)
        self._world.start(2)
        assert self._world.run_until(self._world.one_view, within=3.0) is not None
        self.victim, self.peer = self._node("n0"), self._node("n1")
        self._now = self._world.hosts["n0"].local_time()

    def _receive(self, data: bytes, source: tuple[str, int]) -> None:
        self._now += 0.001
        self.victim.receive_datagram(data, source, self._now)
        self.victim.handle_timer(self._now)
        self.victim.datagrams_to_send()
        self.victim.take_events()
        _ = self.victim.view

    def datagram(self, data: bytes) -> None:
        """From outside, without a key. Half of them with a header that fits."""
        self._begin()
        if data[:1] > b"\x7f":
            state = self.victim._state
            member_ids = self.peer.instance[:8] + state.me.member_id
            data = bytes([data[0] & 0x1F]) + data[1:2] + state.seal.label + member_ids + data[2:]
        self._receive(data, STRANGER)

    def messages(self, data: bytes) -> None:
        """From inside: a member whose seal is good says this."""
        self._begin()
        peer = self.peer._state
        row = peer.table.get(self.victim.instance[:8])
        assert row is not None
        assert row.address is not None
        peer.post_raw(row.address, peer._sealed(row, [data]), LOAD_KIND)
        for _, datagram in self.peer.datagrams_to_send():
            self._receive(datagram, self._world.hosts["n1"].address)


def payload(data: bytes) -> None:
    with contextlib.suppress(UndecodablePayload):
        decode_untrusted(data)
    with contextlib.suppress(InvalidRecord):
        decode_record_untrusted(data)


_router = Router(AccessControl(Access()), ROUTES)


def http(data: bytes) -> None:
    """The whole way of a request up to its handler, cut in two somewhere: what is understood must not depend on it."""
    whole, cut = RequestReader(Limits()), RequestReader(Limits())
    requests = whole.feed_untrusted(data)
    middle = len(data) // 2
    pieces = [*cut.feed_untrusted(data[:middle])]
    if cut.refusal is None and not any(not request.keep_alive for request in pieces):
        cut.feed_untrusted(data[middle:])
    for request in requests:
        with contextlib.suppress(RequestRejected):
            _router.find(request)
    whole.close()
    cut.close()


_needed = {"name": "w", "cluster": "c", "service": "s", "worker": "http://127.0.0.1:1", "insecure-plaintext": True}
_folder = Path(tempfile.mkdtemp(prefix="rumormill-fuzz-"))


def toml(data: bytes) -> None:
    path = _folder / "agent.toml"
    path.write_bytes(data)
    if b"gossip" in data or b"http" in data or b"advertise" in data:
        return  # names would be asked of a name server
    with contextlib.suppress(SettingsError):
        load(_needed, {}, path)


def key_file(data: bytes) -> None:
    with contextlib.suppress(InvalidKey):
        parse_key_file(data.decode("latin-1"))


_dialogues = [
    dialogue_of(spec)
    for spec in (
        EmbeddingsSpec(expect=VectorExpect(norm=1.0, golden=(0.6, 0.8), schema={"required": ["data"]})),
        ChatSpec(expect=TextExpect(pattern="[a-z]+ *$")),
        CompletionsSpec(),
        KserveSpec(model="m", inputs=(), output="y"),
        HttpSpec(path="/", expect=HttpExpect(vector="data.0.embedding", text="text", pattern="x")),
    )
]


def answer(data: bytes) -> None:
    """What a worker answers to a probe; the first byte chooses the probe. Every refusal is one line for a log."""
    kind, body = data[0] if data else 0, data[1:]
    if kind % 8 < len(_dialogues):
        judge: Callable[[], object] = partial(_dialogues[kind % 8].judge_untrusted, bytearray(body))
    else:
        judge = partial(TokenStream(chat=kind % 2 == 0).feed_untrusted, body)
    try:
        judge()
    except NotExpected as error:
        if not 0 < len(str(error)) < 500 or not str(error).isprintable():
            raise ValueError(f"not a line for a log: {str(error)!r}") from error
    error_text_untrusted(body)


def probe_file(data: bytes) -> None:
    if b"key" in data and b"file" in data:
        return  # any file of the machine would be read
    with contextlib.suppress(BadProbe):
        parse_probe(data.decode("latin-1"), _folder)


def counters(data: bytes) -> None:
    """An engine's page of counters; the first byte chooses the engine. What is read are numbers or nothing."""
    engines = [profile.counters for profile in ENGINES.values() if profile.counters is not None]
    chosen, page = engines[data[0] % len(engines)] if data else engines[0], data[1:]
    with contextlib.suppress(BadCounters):
        if isinstance(chosen, PrometheusCounters):
            found = read_prometheus_untrusted(page, chosen)
        else:
            found = read_ollama_untrusted(page)
        assert found.at_work is None or found.at_work >= 0
        assert found.cache_use is None or 0 <= found.cache_use <= 1


TARGETS: dict[str, Target] = {
    "datagram": Pool().datagram,
    "messages": Pool().messages,
    "payload": payload,
    "http": http,
    "toml": toml,
    "key_file": key_file,
    "answer": answer,
    "probe_file": probe_file,
    "counters": counters,
}
