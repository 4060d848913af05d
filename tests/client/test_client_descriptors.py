"""A caller that is out of file descriptors. It is a separate process, because a test runner needs descriptors."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from limits import LIVENESS_LIMIT
from stage import stage_in_thread

PROGRAM = """
import contextlib, json, resource, socket, sys
import anyio, httpx2
from rumormill.client import Pool, SyncPool

LIMIT = 64
urls, backend = sys.argv[1].split(), sys.argv[2]
keys = [f"user-{n}" for n in range(9)]

@contextlib.contextmanager
def no_descriptors():
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(socket.socket())
    yield
    for one in held:
        one.close()

def tell(error, answered, owners):
    print(json.dumps({"kind": type(error).__name__, "said": str(error), "answered": answered, "owners": owners}))

async def main():
    async with Pool(urls, "embed", hedge=False) as pool:
        async with httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=60) as http:
            with no_descriptors():
                error = None
                try:
                    await http.get("/")
                except httpx2.TransportError as raised:
                    error = raised
            answered = [(await http.get("/", headers={"Rumormill-Key": key})).text for key in keys]
            tell(error, answered, [pool.owners(key, 1)[0].name for key in keys])

resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
if backend in ("asyncio", "trio"):
    anyio.run(main, backend=backend)
else:
    pool = SyncPool(urls, "embed", hedge=False)
    with pool, httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=60) as http:
        with no_descriptors():
            error = None
            try:
                http.get("/")
            except httpx2.TransportError as raised:
                error = raised
        answered = [http.get("/", headers={"Rumormill-Key": key}).text for key in keys]
        tell(error, answered, [pool.owners(key, 1)[0].name for key in keys])
"""


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("backend", ["asyncio", "trio", "threads"])
def test_a_process_out_of_descriptors_is_told_so_and_no_worker_is_blamed(backend, workers):
    with stage_in_thread(workers) as scene:
        command = [sys.executable, "-c", PROGRAM, " ".join(scene.scene.urls), backend]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIVENESS_LIMIT)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["kind"] == "TooManyOpenFilesError"
    assert "too many open files: its limit is 64; raise it (ulimit -n)" in told["said"]
    # A worker that had been blamed would be skipped now.
    assert told["answered"] == told["owners"]


def test_a_sidecar_is_not_blamed_if_no_descriptor_was_left_to_ask_it():
    program = """
import resource, socket, sys
from rumormill.client import Pool
import anyio

async def main():
    held = []
    try:
        while True:
            held.append(socket.socket())
    except OSError:
        pass
    pool = await Pool("http://127.0.0.1:1", "embed", patience=5).open()
    print(pool.topology.troubles)

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
anyio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIVENESS_LIMIT)
    assert "http://127.0.0.1:1: this process has too many open files" in done.stdout
