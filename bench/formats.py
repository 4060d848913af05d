"""The formats of the endpoint beside nginx, with wrk: ``python -m bench.formats`` (two minutes; needs nginx and wrk).

Both serve the same bytes on one core, and wrk with 32 keep-alive connections has another. They take turns within each
round, and the median of the rounds' ratios counts. A rate is requests per second of the server's own processor time, so
that others on the machine change it little. nginx serves files; it answers a POST like a GET.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import Request, urlopen

import trio

from bench.discovery import StaticSidecar
from bench.ports import reserved_port

ROUNDS: Final = 5
SECONDS: Final = 1
CONNECTIONS: Final = 32
SERVER_CORE: Final = "0"
LOAD_CORE: Final = "1"
ENVOY_BODY: Final = {"node": {"id": "front", "cluster": "front"}, "resource_names": ["embed"]}


class MeasuredServer(NamedTuple):
    """One running server."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time of the process and its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in (self.pid, *children)]
        return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


class Case(NamedTuple):
    """One request, as wrk sends it again and again."""

    name: str
    path: str
    body: str = ""
    etag: str = ""
    """Sent to both, each its own."""


async def serve() -> None:
    """The endpoint alone, in this process; prints its port."""
    from rumormill.discovery.http.limits import Limits
    from rumormill.discovery.server import DiscoveryServer

    server = DiscoveryServer(
        commands=StaticSidecar(),  # type: ignore[arg-type]
        process="bench",
        wall_offset=0.0,
        limits=Limits(settle=0.0),
    )
    server.pool_changed()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await server.serve(listeners)


@contextmanager
def endpoint() -> Iterator[MeasuredServer]:
    command = ["taskset", "-c", SERVER_CORE, sys.executable, "-m", "bench.formats", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield MeasuredServer(int(process.stdout.readline()), process.pid)
        finally:
            process.kill()


@contextmanager
def nginx(folder: Path) -> Iterator[MeasuredServer]:
    port = reserved_port()
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit; events {{}}\n"
        f"http {{ access_log off; keepalive_requests 100000000; open_file_cache max=100;\n"
        f"default_type application/json;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; error_page 405 =200 $uri; }} }}\n"
    )
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "install nginx"
    files = ["-p", str(folder), "-c", str(folder / "nginx.conf")]
    command = ["taskset", "-c", SERVER_CORE, program, "-e", "stderr", *files]
    with subprocess.Popen(command) as process:
        try:
            time.sleep(0.5)
            yield MeasuredServer(port, process.pid)
        finally:
            process.terminate()


def fetch(port: int, case: Case) -> tuple[bytes, str]:
    """Body and tag of a 200."""
    request = Request(f"http://127.0.0.1:{port}{case.path}", data=case.body.encode() or None)
    with urlopen(request) as answer:
        return answer.read(), answer.headers.get("ETag", "")


def wrk(server: MeasuredServer, case: Case, etag: str, folder: Path) -> float:
    """Requests in a second of the server's processor time."""
    script = folder / "request.lua"
    method, body = ("POST", json.dumps(case.body)) if case.body else ("GET", "nil")
    script.write_text(f'wrk.method, wrk.body = "{method}", {body}\n')
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(script)]
    header = ["-H", f"If-None-Match: {etag}"] if etag else []
    before = server.cpu_seconds()
    done = subprocess.run(
        [*command, *header, f"http://127.0.0.1:{server.port}{case.path}"], capture_output=True, text=True, check=True
    )
    (requests,) = re.findall(r"(\d+) requests in", done.stdout)
    assert "Non-2xx" not in done.stdout, done.stdout
    return int(requests) / (server.cpu_seconds() - before)


def compare(ours: MeasuredServer, theirs: MeasuredServer, case: Case, folder: Path) -> str:
    body, etag = fetch(ours.port, case)
    file = folder / case.path.partition("?")[0].strip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)
    time.sleep(1.1)  # nginx keeps what it knows of a file for a second
    served, their_etag = fetch(theirs.port, case)
    assert served == body
    kinds = [("200", case, "", "")]
    if etag:
        kinds.append(("304", case, etag, their_etag))
    else:
        known = case._replace(body=json.dumps({**ENVOY_BODY, "version_info": json.loads(body)["version_info"]}))
        kinds.append(("304", known, "", their_etag))
    lines = []
    for status, asked, tag, their_tag in kinds:
        pairs = [(wrk(ours, asked, tag, folder), wrk(theirs, asked, their_tag, folder)) for _ in range(ROUNDS)]
        ratio = statistics.median(one / other for one, other in pairs)
        one, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        lines.append(f"| {case.name} | {len(body)} | {status} | {one:,.0f} | {other:,.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    cases = (
        Case("`/v1/workers`", "/v1/workers?service=embed"),
        Case("plain text", "/v1/workers?service=embed&ready=true&format=text"),
        Case("Consul health", "/v1/health/service/embed?passing"),
        Case("Prometheus", "/v1/prometheus/targets?service=embed"),
        Case("Envoy EDS", "/v3/discovery:endpoints", json.dumps(ENVOY_BODY)),
    )
    columns = ("format", "bytes", "status", "endpoint, requests per CPU s", "nginx, the same", "ratio")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for case in cases:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o755)
            ours, theirs = stack.enter_context(endpoint()), stack.enter_context(nginx(folder))
            print(compare(ours, theirs, case, folder), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        trio.run(serve)
    else:
        main()
