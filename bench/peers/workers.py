"""One process that acts as the worker of every sidecar: ``python -m bench.peers.workers PORT NAMESPACE ...``

It listens on 127.0.0.1 of each namespace and answers every request with 200. So the sidecars run their worker checks,
at a fraction of the cost of one worker process per host.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

import trio

CLONE_NEWNET = 0x40000000
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def enter(namespace: str) -> None:
    """From now on, create this thread's sockets in that namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open("rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)


async def answer(stream: trio.SocketStream) -> None:
    try:
        await stream.receive_some(4096)
        await stream.send_all(ANSWER)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the sidecar was killed during the request


async def main(port: int, namespaces: list[str]) -> None:
    listeners = []
    for namespace in namespaces:
        enter(namespace)
        sock = socket.create_server(("127.0.0.1", port), backlog=16)
        listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(sock)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await trio.serve_listeners(answer, listeners)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2:])
