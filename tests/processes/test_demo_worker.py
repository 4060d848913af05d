"""The worker program as a process: what it answers, what it refuses, and how it ends."""

import base64
import json
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest
from limits import LIVENESS_LIMIT

from rumormill.cli.demo.embedding import MODEL, embed
from rumormill.cli.demo.worker import ANSWERED_BY, MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_TEXTS


def _start(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """The process and the address it says it listens at."""
    argv = [sys.executable, "-m", "rumormill.cli.demo.worker", "--port", "0", "--name", "w7", *flags]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://[\d.:]+", process.stdout.readline())
    assert found is not None
    return process, found.group()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process, address = _start()
    yield address
    _end(process)


def _ask(url: str, body: object) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/embeddings", content=body if isinstance(body, bytes) else json.dumps(body))


def test_it_embeds_a_text_as_openai_answers(url: str) -> None:
    response = _ask(url, {"input": "Call me Ishmael.", "model": "any"})
    assert response.status_code == 200
    assert response.headers[ANSWERED_BY] == "w7"
    assert response.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": embed("Call me Ishmael.")}],
        "model": "any",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


def test_it_embeds_a_list_and_packs_floats_when_asked(url: str) -> None:
    answer = _ask(url, {"input": ["one", "two"], "encoding_format": "base64"}).json()
    assert answer["model"] == MODEL
    for item, text in zip(answer["data"], ("one", "two"), strict=True):
        packed = struct.unpack("<256f", base64.b64decode(item["embedding"]))
        assert packed == pytest.approx(embed(text), abs=1e-7)


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_it_says_that_it_can_serve(url: str, path: str) -> None:
    assert httpx2.get(f"{url}{path}").json() == {"status": "ok"}
    head = httpx2.head(f"{url}{path}")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"{", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        (b"[" * 100_000, None, "not JSON"),
        (["input"], "input", 'no "input"'),
        ({}, "input", 'no "input"'),
        ({"input": 5}, "input", "a text or a list"),
        ({"input": []}, "input", "at least one"),
        ({"input": ["a", None]}, "input", "a text or a list"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, "input", f"at most {MAX_TEXTS}"),
        ({"input": "a", "model": 3}, "model", '"model"'),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "base64"),
    ],
)
def test_bad_input_is_refused_with_the_reason(url: str, body: object, param: str | None, words: str) -> None:
    response = _ask(url, body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]


def test_other_paths_and_methods_are_refused_and_the_connection_lives_on(url: str) -> None:
    with httpx2.Client(base_url=url) as client:
        assert client.get("/").status_code == 404
        assert client.get("/v1/embeddings").status_code == 405
        assert client.post("/health").status_code == 405
        assert client.get("/health").status_code == 200


def _talk(url: str, data: bytes) -> bytes:
    """Everything the server says to these bytes until it hangs up."""
    address = httpx2.URL(url)
    assert address.port is not None
    with socket.create_connection((address.host, address.port), timeout=LIVENESS_LIMIT) as sock:
        sock.sendall(data)
        said = b""
        while more := sock.recv(65536):
            said += more
        return said


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1), b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (MAX_BODY_BYTES + 1), b"413"),
        (b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused_and_cut_off(url: str, data: bytes, status: bytes) -> None:
    said = _talk(url, data)
    assert said.startswith(b"HTTP/1.1 " + status)
    assert b"invalid_request_error" in said


def test_of_requests_sent_ahead_only_the_first_is_answered(url: str) -> None:
    one = b"GET /health HTTP/1.1\r\n\r\n"
    said = _talk(url, one + one.replace(b"health", b"nothing"))
    assert said.count(b"HTTP/1.1 200") == said.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in said


def test_sigterm_lets_begun_requests_finish_and_ends_with_0() -> None:
    process, url = _start("--think", "300")
    try:
        body = json.dumps({"input": "the last one"}).encode()
        address = httpx2.URL(url)
        assert address.port is not None
        with (
            httpx2.Client(base_url=url) as idle,
            socket.create_connection((address.host, address.port), timeout=LIVENESS_LIMIT) as begun,
        ):
            begun.sendall(b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            # One loop serves both in turn, so once this is answered the question above has been read.
            assert idle.get("/health").status_code == 200
            process.send_signal(signal.SIGTERM)
            said = b""
            while more := begun.recv(65536):
                said += more
        answer = json.loads(said.partition(b"\r\n\r\n")[2])
        assert answer["data"][0]["embedding"] == embed("the last one")
        assert process.wait(LIVENESS_LIMIT) == 0
    finally:
        _end(process)


def test_a_port_in_use_is_one_clear_line(url: str) -> None:
    port = str(httpx2.URL(url).port)
    argv = [sys.executable, "-m", "rumormill.cli.demo.worker", "--port", port]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=LIVENESS_LIMIT, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
