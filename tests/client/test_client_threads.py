"""What only a synchronous pool has to get right: blocked threads are woken, and connections are not mixed up."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import anyio
import httpcore2
import httpx2
import pytest
import trio
import trustme
from callers import KEYED, calling_in_thread
from limits import LIVENESS_LIMIT
from stage import Exchange, hang

from rumormill.client import Pool, ResponseInterruptedError, SyncPool
from rumormill.client.connections.sync_upstream import InterruptibleStream, SyncLine, SyncUpstream
from rumormill.client.rules.hedging import MIN_ANSWERS


class Flight:
    """What a connection reads and writes of the request that it carries."""

    sent = False


def in_flight(pool: SyncPool) -> list[int]:
    return [pool._require_open().upstreams.selector.stats(worker).in_flight for worker in pool.workers]


def test_a_thread_blocked_at_a_worker_that_froze_with_its_sidecar_is_woken(scene):
    first, second, _ = scene.scene.owners("user-1")
    first.behaviour = hang
    with calling_in_thread(scene, replay="always", hedge=False) as (pool, http), ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(http.post, "/", content=b"x", headers=KEYED) for _ in range(8)]
        scene.do(first.arrived.wait)
        scene.do(scene.scene.evict, first.name)
        answers = [each.result(LIVENESS_LIMIT) for each in asking]
        assert {answer.text for answer in answers} <= {second.name, scene.scene.owners("user-1")[1].name}
        assert in_flight(pool) == [0, 0]


def test_a_thread_blocked_in_a_tls_connection_is_woken_too(scene):
    authority = trustme.CA()
    server_tls, client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    authority.configure_trust(client_tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = threading.Event()

        def serve() -> None:
            tcp, _ = listener.accept()
            with server_tls.wrap_socket(tcp, server_side=True) as connection:
                connection.recv(65536)
                silent.set()
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        first, second, _ = scene.scene.owners("user-1")
        scene.do(partial(scene.scene.change, first.name, url=f"https://127.0.0.1:{listener.getsockname()[1]}"))
        with calling_in_thread(scene, verify=client_tls) as (_, http), ThreadPoolExecutor(1) as threads:
            asking = threads.submit(http.get, "/", headers=KEYED)
            assert silent.wait(LIVENESS_LIMIT)
            scene.do(scene.scene.evict, first.name)
            assert asking.result(LIVENESS_LIMIT).text == second.name
        thread.join(LIVENESS_LIMIT)
        assert not thread.is_alive()


def test_a_thread_that_still_connects_is_woken_when_a_hedge_wins(scene):
    """Nothing answers at the first owner's address: its accept queue is full."""
    first, second, _ = scene.scene.owners("user-1")
    with calling_in_thread(scene) as (pool, http), ExitStack() as stack:
        for _ in range(MIN_ANSWERS):
            http.get("/", headers=KEYED)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        while _connects(stack.enter_context(socket.socket()), listener.getsockname()):
            pass
        known = pool.topology
        scene.do(partial(scene.scene.change, first.name, url=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        pool.changed(known, LIVENESS_LIMIT)
        attempts = http.get("/", headers=KEYED).extensions["rumormill_attempts"]
        assert [attempt.worker.name for attempt in attempts] == [first.name, second.name]
        # Overtaken, and not given up after a second of connecting.
        assert [(attempt.hedge, attempt.failure) for attempt in attempts] == [(False, None), (True, None)]


def _connects(one: socket.socket, address: tuple[str, int]) -> bool:
    one.settimeout(0.3)
    return one.connect_ex(address) == 0


def test_the_stream_of_a_hedge_is_read_in_the_callers_thread(scene):
    async def stream(exchange: Exchange) -> None:
        await exchange.begin("text/event-stream")
        for number in range(3):
            await exchange.part(b"data: %d\n\n" % number)
        await exchange.end()

    first, second, _ = scene.scene.owners("user-1")
    with calling_in_thread(scene) as (pool, http):
        for _ in range(MIN_ANSWERS):
            http.get("/", headers=KEYED)
        first.behaviour, second.behaviour = hang, stream
        with http.stream("GET", "/", headers=KEYED) as response:
            assert response.extensions["rumormill_worker"].name == second.name
            assert b"".join(response.iter_bytes()) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        scene.do(first.hung_up.wait)
        assert in_flight(pool) == [0, 0, 0]


def test_closing_the_pool_ends_what_is_under_way(scene):
    first = scene.scene.owners("user-1")[0]
    first.behaviour = hang
    with ThreadPoolExecutor(1) as threads, calling_in_thread(scene, hedge=False) as (pool, http):
        asking = threads.submit(http.get, "/", headers=KEYED)
        scene.do(first.arrived.wait)
        pool.close()
        with pytest.raises(RuntimeError, match="was closed while a request was in flight"):
            asking.result(LIVENESS_LIMIT)
    scene.do(first.hung_up.wait)


async def part_and_hang(exchange: Exchange) -> None:
    await exchange.begin("text/event-stream")
    await exchange.part(b"data: 1\n\n")
    await exchange.hang()


def test_closing_the_pool_ends_its_streams(scene):
    first = scene.scene.owners("user-1")[0]
    first.behaviour = part_and_hang
    with calling_in_thread(scene) as (pool, http), http.stream("GET", "/", headers=KEYED) as response:
        chunks = response.iter_bytes()
        assert next(chunks) == b"data: 1\n\n"
        pool.close()
        with pytest.raises(ResponseInterruptedError, match="this pool was closed"):
            next(chunks)


@pytest.mark.parametrize("kind", ["threads", "asyncio", "trio"])
def test_a_connection_is_used_again_unless_its_stream_was_left_early(scene, kind):

    first = scene.scene.owners("user-1")[0]
    peers: set[tuple[str, int]] = set()

    async def note_peer(exchange: Exchange) -> None:
        peers.add(exchange._stream.socket.getpeername())
        if exchange.seen.target == "/stream":
            await part_and_hang(exchange)
        await exchange.answer()

    first.behaviour = note_peer

    async def main() -> None:
        async with (
            Pool(scene.scene.urls, "embed", hedge=False) as pool,
            httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http,
        ):
            for _ in range(20):
                await http.get("/", headers=KEYED)
            assert len(peers) == 1
            async with http.stream("GET", "/stream", headers=KEYED):
                pass
            for _ in range(20):
                await http.get("/", headers=KEYED)

    if kind != "threads":
        anyio.run(main, backend=kind)
    else:
        with calling_in_thread(scene, hedge=False) as (_, http):
            for _ in range(20):
                http.get("/", headers=KEYED)
            assert len(peers) == 1
            with http.stream("GET", "/stream", headers=KEYED):
                pass
            for _ in range(20):
                http.get("/", headers=KEYED)
    assert len(peers) == 2


def test_a_connection_that_the_worker_has_closed_is_not_used(scene):
    """The worker closes after each answer, without saying so."""

    closed = threading.Event()

    async def answer_and_close(exchange: Exchange) -> None:
        await exchange.answer()
        await exchange.close()
        closed.set()
        raise trio.ClosedResourceError

    first = scene.scene.owners("user-1")[0]
    first.behaviour = answer_and_close
    with calling_in_thread(scene, replay="never", hedge=False) as (_, http):
        for _ in range(5):
            assert http.get("/", headers=KEYED).text == first.name
            assert closed.wait(LIVENESS_LIMIT)
            closed.clear()


def test_a_fork_waits_for_threads_that_hold_the_pools_lock():
    program = """
import os, threading, time
from rumormill.client.runtime.shared_lock import shared_lock

lock = shared_lock()
held, stop = threading.Event(), threading.Event()

def hold():
    while not stop.is_set():
        with lock:
            held.set()
            time.sleep(0.001)

threading.Thread(target=hold).start()
held.wait()
for _ in range(20):
    child = os.fork()
    if child == 0:
        with lock, lock:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=LIVENESS_LIMIT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_short_body_leaves_together_with_the_head_of_its_request() -> None:
    """One call of the system instead of two, and one packet that the worker has to wake up for."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        upstream = SyncUpstream(f"http://127.0.0.1:{server.getsockname()[1]}", ssl.create_default_context)
        line = SyncLine(upstream.origin, upstream.tls)
        line.body_follows = True
        accepted = threads.submit(server.accept)
        stream = line.connect_tcp("127.0.0.1", server.getsockname()[1], LIVENESS_LIMIT)
        line.flight = flight = Flight()  # type: ignore[assignment]
        stream.write(b"head ", LIVENESS_LIMIT)
        assert not flight.sent
        stream.write(b"body", LIVENESS_LIMIT)
        assert flight.sent
        with accepted.result()[0] as connection:
            assert connection.recv(100) == b"head body"
        stream.close()


@pytest.mark.parametrize("body_follows", [True, False])
def test_a_request_of_which_nothing_could_be_sent_counts_as_not_sent(body_follows: bool) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    line = SyncLine(httpcore2.URL("http://w").origin, ssl.create_default_context())
    line.body_follows = body_follows
    line.flight = flight = Flight()  # type: ignore[assignment]
    stream = InterruptibleStream(ours, line)
    if body_follows:
        stream.write(b"head ", LIVENESS_LIMIT)
    with pytest.raises(httpcore2.WriteError):
        stream.write(b"rest", LIVENESS_LIMIT)
    assert not flight.sent
    stream.close()
