"""HTTP probes against a real server that goes wrong in every way: what they conclude, and why in plain words."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from certificates import Authority
from limits import LIVENESS_LIMIT
from misbehaving_worker import VECTOR, Fault, MisbehavingWorker

from rumormill.sidecar.probes import ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.build import build_probe, default_spec
from rumormill.sidecar.probes.probe_file import parse_probe
from rumormill.sidecar.probes.specification import ProbeSpec
from rumormill.sidecar.settings_values import WorkerUrl

SLOW_AFTER, GIVE_UP = "30s", "60s"
"""Generous: a busy machine must not make a right answer a slow one."""
EMBEDDINGS = f"""
kind = "embeddings"
budget = "{SLOW_AFTER}"
give-up = "{GIVE_UP}"
[expect]
length = {len(VECTOR)}
norm = 1.0
golden = {list(VECTOR)}
"""
KSERVE = EMBEDDINGS.replace('"embeddings"', '"kserve"\nmodel = "m"') + (
    '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [1, 2]\ndata = [1.0, 2.0]\n'
)
CHAT = f'kind = "chat"\nbudget = "{SLOW_AFTER}"\ngive-up = "{GIVE_UP}"\n'
COMPLETIONS = CHAT.replace("chat", "completions")
STREAM = CHAT + "stream = true\n"
HTTP = f"""
kind = "http"
method = "POST"
path = "/embed"
budget = "{SLOW_AFTER}"
give-up = "{GIVE_UP}"
[body]
input = "x"
[expect]
vector = "data.0.embedding"
golden = {list(VECTOR)}
[expect.schema]
required = ["data"]
"""
ALL = {
    "embeddings": EMBEDDINGS,
    "kserve": KSERVE,
    "http": HTTP,
    "chat": CHAT,
    "completions": COMPLETIONS,
    "stream": STREAM,
}
VECTORS = ("embeddings", "kserve", "http")


@asynccontextmanager
async def misbehaving(fault: Fault = Fault.NONE) -> AsyncIterator[MisbehavingWorker]:
    async with trio.open_nursery() as nursery:
        yield await MisbehavingWorker.start(nursery, fault)
        nursery.cancel_scope.cancel()


async def outcome_of(probe: str | ProbeSpec, url: str) -> ProbeOutcome:
    spec = parse_probe(probe, Path()) if isinstance(probe, str) else probe
    with trio.fail_after(LIVENESS_LIMIT):
        return await build_probe(spec, WorkerUrl.parse(url)).run()


def hasty(probe: str) -> str:
    """The probe, giving up soon: for servers that never answer."""
    return probe.replace(SLOW_AFTER, "100ms").replace(GIVE_UP, "200ms")


@pytest.mark.parametrize("kind", ALL)
async def test_a_healthy_worker_answers_right(kind: str) -> None:
    async with misbehaving() as worker:
        outcome = await outcome_of(ALL[kind], worker.url)
    assert outcome.verdict is ProbeVerdict.RIGHT, outcome
    assert outcome.vector == (VECTOR if kind in VECTORS else ())


WRONG: list[tuple[Fault, tuple[str, ...], str]] = [
    (Fault.ERROR, tuple(ALL), "it answered 500: CUDA error: illegal memory access"),
    (Fault.UNAVAILABLE, tuple(ALL), "it answered 503"),
    (Fault.NOT_HTTP, tuple(ALL), "the answer is not HTTP"),
    (Fault.NOT_JSON, tuple(ALL)[:-1], "the answer is not JSON but '<html>welcome</html>'"),
    (Fault.NOT_JSON, ("stream",), "the stream ended without a token"),
    (Fault.ENDLESS, tuple(ALL), "the answer is longer than 512 KiB"),
    (Fault.ENDLESS_HEAD, tuple(ALL), "the headers are longer than 64 KiB"),
    (Fault.NAN, VECTORS, "number 1 of 4 is NaN"),
    (Fault.NULL, VECTORS, "number 1 of 4 is null, as some servers write NaN"),
    (Fault.EMPTY, ("embeddings",), "data is empty"),
    (Fault.EMPTY, ("kserve",), "outputs is empty"),
    (Fault.EMPTY, ("http",), "the answer has no data.0.embedding"),
    (Fault.EMPTY, ("chat", "completions"), "choices is empty"),
    (Fault.WRONG_LENGTH, ("embeddings", "kserve"), "the vector has 2 numbers and should have 4"),
    (Fault.ZEROS, VECTORS, "the vector is all zeros"),
    (Fault.OTHER_VECTOR, VECTORS, "cosine distance to the golden vector is 0.5200 and should be at most 0.01"),
    (Fault.EXCLAMATION, ("chat", "completions", "stream"), "the text is '!' repeated 16 times"),
    (Fault.NAN, ("chat", "completions", "stream"), "the text is '!' repeated 16 times"),
    (Fault.ECHO, tuple(ALL), "add api-key-file to the probe file"),
]


@pytest.mark.parametrize(
    ("fault", "kind", "reason"), [(fault, kind, why) for fault, kinds, why in WRONG for kind in kinds]
)
async def test_a_wrong_answer_says_what_is_wrong(fault: Fault, kind: str, reason: str) -> None:
    async with misbehaving(fault) as worker:
        outcome = await outcome_of(ALL[kind], worker.url)
    assert (outcome.verdict, outcome.vector) == (ProbeVerdict.WRONG, ())
    assert reason in outcome.reason
    assert len(outcome.reason) < 400


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.RESET, "the connection was reset in the middle of the answer, after status 200 and"),
        (Fault.CLOSED, "the connection was closed in the middle of the answer, after status 200 and"),
        (Fault.NO_ANSWER, "the connection was closed without an answer"),
    ],
)
@pytest.mark.parametrize("kind", ["embeddings", "chat"])
async def test_a_connection_that_breaks_is_silence(fault: Fault, reason: str, kind: str) -> None:
    async with misbehaving(fault) as worker:
        outcome = await outcome_of(ALL[kind], worker.url)
    assert outcome.verdict is ProbeVerdict.SILENT
    assert reason in outcome.reason


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection_is_silence(host: str) -> None:
    async with misbehaving() as worker:
        port = worker.url.rpartition(":")[2]
    outcome = await outcome_of(CHAT, f"http://{host}:{port}")
    assert outcome.verdict is ProbeVerdict.SILENT
    assert f"nothing listens on {host}:{port}" in outcome.reason


async def test_what_this_machine_cannot_ask_is_not_held_against_the_worker() -> None:
    assert (await outcome_of(CHAT, "http://no.such.host.invalid")).verdict is ProbeVerdict.TIMED_OUT


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.HANGING, "no answer within"),
        (Fault.HEADERS_ONLY, "status 200 and headers, then nothing for"),
        (Fault.DRIP, "status 200 and only 1 byte of the answer within"),
        (Fault.LATE, "no answer within"),
    ],
)
@pytest.mark.parametrize("kind", ["embeddings", "chat"])
async def test_giving_up_says_how_far_the_answer_came(fault: Fault, reason: str, kind: str) -> None:
    async with misbehaving(fault) as worker:
        with trio.fail_after(LIVENESS_LIMIT):
            while True:  # on a busy machine even the headers may come after the probe has given up
                outcome = await outcome_of(hasty(ALL[kind]), worker.url)
                assert outcome.verdict is ProbeVerdict.TIMED_OUT
                if reason in outcome.reason:
                    break


async def test_a_first_token_that_is_no_word_is_not_judged_before_more_are_asked() -> None:
    """Llama's tokenizers begin an answer with a space of its own."""
    probe = CHAT + 'model = "m"\n[expect]\npattern = "8"\n'
    async with misbehaving(Fault.SPACE_FIRST) as worker:
        outcome = await outcome_of(probe, worker.url)
        assert outcome.verdict is ProbeVerdict.RIGHT, outcome
        assert [b'"max_tokens":1,' in worker.requests[0], b'"max_tokens":16,' in worker.requests[1]] == [True, True]


async def test_a_right_answer_over_the_budget_is_slow() -> None:
    async with misbehaving(Fault.LATE) as worker:
        outcome = await outcome_of(EMBEDDINGS.replace(SLOW_AFTER, "500ms"), worker.url)
    assert outcome.verdict is ProbeVerdict.SLOW
    assert "is right but came after 2" in outcome.reason
    assert "over the 500ms allowed" in outcome.reason


async def test_a_worker_that_refuses_for_overload_is_slow() -> None:
    async with misbehaving(Fault.OVERLOADED) as worker:
        outcome = await outcome_of(CHAT, worker.url)
    assert outcome.verdict is ProbeVerdict.SLOW
    assert "it is overloaded, it answered 429: Model is overloaded" in outcome.reason


async def test_each_run_opens_a_connection_and_the_model_is_asked_once() -> None:
    async with misbehaving() as worker:
        probe = build_probe(default_spec("chat"), WorkerUrl.parse(worker.url))
        for _ in range(3):
            await probe.run()
        asked = [request.split(b" ")[1] for request in worker.requests]
    assert asked == [b"/v1/models", *[b"/v1/chat/completions"] * 3]
    assert worker.connections == 4
    assert b'"model":"tiny"' in worker.requests[1]


async def test_the_body_of_the_file_is_added_to_the_usual_one() -> None:
    probe = CHAT + 'model = "m"\n[headers]\nX-Tenant = "probe"\n[body]\nmax_tokens = 3\nseed = 1\n'
    async with misbehaving() as worker:
        assert (await outcome_of(probe, worker.url)).answer == "the text ' 8 9 10'"
        head, _, body = worker.requests[-1].partition(b"\r\n\r\n")
    fields = msgspec.json.decode(body)
    assert (fields["max_tokens"], fields["seed"], fields["temperature"]) == (3, 1, 0)
    assert b"\r\nX-Tenant: probe\r\n" in head


@pytest.mark.parametrize(
    ("header", "sent"),
    [("Authorization", b'Authorization: Bearer s3cret"/\\k\r\n'), ("X-Key", b'X-Key: s3cret"/\\k\r\n')],
)
async def test_the_key_is_sent_and_never_shown_though_the_worker_repeats_it(
    tmp_path: Path, header: str, sent: bytes
) -> None:
    key = tmp_path / "key"
    key.write_text('s3cret"/\\k\n')
    key.chmod(0o600)
    spec = parse_probe(CHAT + f'api-key-file = "key"\napi-key-header = "{header}"\n', tmp_path)
    async with misbehaving(Fault.ECHO) as worker:
        probe = build_probe(spec, WorkerUrl.parse(worker.url))
        outcome = await probe.run()
        assert sent in worker.requests[-1]
    for text in (repr(outcome), repr(probe), repr(vars(probe)), probe.description, probe.expected, repr(spec)):
        assert "s3cret" not in text
    assert "check its api-key-file" in outcome.reason
    assert "[secret]" in outcome.reason


async def test_tls_is_checked_against_the_known_authorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):  # a probe that does not trust it
            await stream.receive_some(4096)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with trio.open_nursery() as nursery:
        start = partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")
        listeners = await nursery.start(start)
        url = f"https://127.0.0.1:{listeners[0].transport_listener.socket.getsockname()[1]}"
        probe = (
            f'kind = "http"\npath = "/"\nbudget = "{SLOW_AFTER}"\ngive-up = "{GIVE_UP}"\n[expect]\npattern = "^ok$"\n'
        )
        untrusted = await outcome_of(probe, url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
        trusted = await outcome_of(probe, url)
        nursery.cancel_scope.cancel()
    assert untrusted.verdict is ProbeVerdict.SILENT
    assert "its certificate cannot be verified" in untrusted.reason
    assert trusted.verdict is ProbeVerdict.RIGHT


async def test_cancellation_ends_a_probe_at_once() -> None:
    async with misbehaving(Fault.HANGING) as worker:
        with trio.move_on_after(0.1) as scope:
            await outcome_of(EMBEDDINGS, worker.url)
    assert scope.cancelled_caught
