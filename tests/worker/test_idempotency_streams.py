"""Streams, long answers, callers that hang up, and frameworks in between."""

from __future__ import annotations

import anyio
import pytest
from test_idempotency import RULES, Till, charge, gathered

from rumormill.worker import Idempotency, MemoryStore, current_claim
from rumormill.worker.asgi import Receive, Scope, Send


async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for n in range(3):
        await anyio.sleep(1)
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % n, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def test_a_stream_is_passed_on_as_it_comes_and_kept(autojump_clock) -> None:
    app = Idempotency(streaming, rules=RULES)
    first, again = await gathered(lambda: charge(app), lambda: charge(app))
    if "idempotency-replayed" in first.headers:
        first, again = again, first
    assert [len(message.get("body", b"")) for message in first.messages[1:]] == [9, 9, 9, 0]
    assert first.body == again.body
    assert again.headers["idempotency-replayed"] == "true"
    assert len(again.messages) == 2, "a kept stream comes in one piece"


@pytest.mark.parametrize("app", [streaming, Till()])
async def test_an_answer_too_long_to_keep_is_given_once_and_not_run_again(app, autojump_clock) -> None:
    guarded = Idempotency(app, max_answer=10)
    assert (await charge(guarded)).status == 200
    refused = await charge(guarded)
    assert refused.status == 409
    assert refused.problem["type"] == "urn:rumormill:answer-not-kept"


async def test_a_stream_that_breaks_off_is_cut_off_and_counts_as_failed(autojump_clock) -> None:
    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("out of tokens")

    app = Idempotency(breaking)
    with pytest.raises(ValueError, match="out of tokens"):
        await charge(app)
    assert (await charge(app)).status == 500


@pytest.mark.parametrize("hang_up_after", [0, 1])
async def test_a_caller_that_hangs_up_finds_the_answer_when_it_comes_back(hang_up_after: int, autojump_clock) -> None:
    till = Till()
    app = Idempotency(till)
    await charge(app, hang_up_after=hang_up_after)
    assert (await charge(app)).body == b"charge 1"
    assert len(till.charges) == 1


async def test_an_app_that_hides_the_loss_of_its_claim_does_not_answer_twice(autojump_clock) -> None:
    """Frameworks turn what `send` raises into an answer of their own."""
    store = MemoryStore()

    async def hiding(scope: Scope, receive: Receive, send: Send) -> None:
        claim = current_claim()
        assert claim is not None
        await store.release(claim.key, claim.request)
        for status in (200, 500):
            try:
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            except Exception:
                continue

    refused = await charge(Idempotency(hiding, store))
    assert refused.problem["type"] == "urn:rumormill:claim-lost"
    assert len(refused.messages) == 2


async def test_what_an_app_sends_after_its_answer_reaches_nobody() -> None:
    async def twice(scope: Scope, receive: Receive, send: Send) -> None:
        for status in (200, 500):
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"%d" % status})

    app = Idempotency(twice)
    first, again = await charge(app), await charge(app)
    assert first.body == again.body == b"200"
    assert len(first.messages) == 2
