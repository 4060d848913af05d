"""What `make lint` says of known vulnerabilities: some, none, or that nobody could be asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from limits import LIVENESS_LIMIT

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"
VULNERABLE = {("jinja2", "2.10"), ("leaky", "1.0")}


class Honest(BaseHTTPRequestHandler):
    """Knows of two packages with a vulnerability, in OSV's words."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = self.advisories(asked["package"]["name"], asked["version"])
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def advisories(self, name: str, version: str) -> object:
        if (name, version) not in VULNERABLE:
            return {}
        fixed = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}
        return {
            "vulns": [
                {"id": "TEST-1", "affected": [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [fixed]}]}
            ]
        }

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Ignorant(Honest):
    """Finds nothing in anything, as a mirror does that serves packages only."""

    def advisories(self, name: str, version: str) -> object:
        return {}


class Fickle(Honest):
    """Knows the answer that it is tried with, and breaks off at the next question."""

    def advisories(self, name: str, version: str) -> object:
        if name != "jinja2":
            raise ConnectionResetError
        return super().advisories(name, version)


@contextmanager
def service(kind: type[Honest]) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), kind)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def audited(url: str, tmp_path: Path, packages: str) -> subprocess.CompletedProcess[str]:
    listed = tmp_path / "frozen.txt"
    listed.write_text(packages)
    command = [sys.executable, str(AUDIT), str(listed), "--osv-url", url, "--stamp", str(tmp_path / "stamp")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIVENESS_LIMIT)


def test_a_known_vulnerability_fails(tmp_path: Path) -> None:
    with service(Honest) as url:
        done = audited(url, tmp_path, "tight==1.0\nleaky==1.0\n")
    assert done.returncode == 1
    assert "leaky 1.0: TEST-1, fixed in 9.9" in done.stderr
    assert not (tmp_path / "stamp").exists()


def test_what_has_been_cleared_is_not_asked_about_again_until_it_changes(tmp_path: Path) -> None:
    with service(Honest) as url:
        assert audited(url, tmp_path, "tight==1.0\n").stdout == "audit: no known vulnerability in 1 packages\n"
    assert audited(url, tmp_path, "tight==1.0\n").stdout == "audit: cleared within the last day\n"
    assert audited(url, tmp_path, "tight==1.1\n").stdout.startswith("not audited: advisory service not reachable (")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1/query", "http://nowhere.invalid/v1/query"])
def test_nobody_to_ask_is_said_and_is_no_finding(url: str, tmp_path: Path) -> None:
    done = audited(url, tmp_path, "leaky==1.0\n")
    assert done.returncode == 0
    assert done.stdout.startswith("not audited: advisory service not reachable (")
    assert not (tmp_path / "stamp").exists()


def test_a_service_that_knows_of_nothing_clears_nothing(tmp_path: Path) -> None:
    with service(Ignorant) as url:
        done = audited(url, tmp_path, "leaky==1.0\n")
    assert done.stdout.endswith("knows no advisories)\n")
    assert not (tmp_path / "stamp").exists()


def test_a_service_that_falls_silent_midway_is_a_failure(tmp_path: Path) -> None:
    with service(Fickle) as url:
        done = audited(url, tmp_path, "leaky==1.0\n")
    assert done.returncode == 2
    assert done.stderr.startswith("audit: pip-audit failed: ")
