"""A request with a key is run once: repeats, races, and what is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import trio
from asgi_caller import Answer, call

from rumormill.worker import Claim, ClaimRules, Idempotency, current_claim
from rumormill.worker.asgi import Receive, Scope, Send

BACKENDS = ["asyncio", "trio"]
KEY = {"Idempotency-Key": "order-1"}
RULES = ClaimRules(lease=3.0, window=60.0, wait=20.0)


@dataclass
class Till:
    """An app that charges: it takes a while, acts, and answers with the number of the charge."""

    takes: float = 1.0
    status: int = 200
    charges: list[bytes] = field(default_factory=list)
    claims: list[Claim | None] = field(default_factory=list)
    before: Callable[[], Awaitable[None]] | None = None
    after: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.pathsend" not in scope["extensions"] or current_claim() is None
        body = (await receive())["body"]
        self.claims.append(current_claim())
        if self.before is not None:
            await self.before()
        await anyio.sleep(self.takes)
        self.charges.append(body)
        if self.after is not None:
            await self.after()
        answer = b"charge %d" % len(self.charges)
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def charge(app: Idempotency, body: bytes = b"5 EUR", **how: Any) -> Answer:
    return await call(app, body, **{"headers": KEY, **how})


async def gathered(*calls: Callable[[], Awaitable[Answer]]) -> list[Answer]:
    answers: dict[int, Answer] = {}

    async def one(n: int, do: Callable[[], Awaitable[Answer]]) -> None:
        answers[n] = await do()

    async with anyio.create_task_group() as tasks:
        for n, do in enumerate(calls):
            tasks.start_soon(one, n, do)
    return [answers[n] for n in range(len(calls))]


async def test_a_repeat_gets_the_same_answer_and_says_so(autojump_clock) -> None:
    till = Till()
    app = Idempotency(till)
    first, again = await charge(app), await charge(app)
    assert (first.status, first.body) == (again.status, again.body) == (200, b"charge 1")
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == "text/plain"
    await trio.sleep(61)
    assert (await charge(app)).body == b"charge 2", "after the window the key is new"


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeats_that_come_meanwhile_wait_for_the_first(backend: str) -> None:
    async def story() -> None:
        till = Till(takes=0.05)
        app = Idempotency(till)
        answers = await gathered(*[lambda: charge(app)] * 10)
        assert {answer.body for answer in answers} == {b"charge 1"}
        assert sum("idempotency-replayed" in answer.headers for answer in answers) == 9

    anyio.run(story, backend=backend)


async def test_requests_without_a_key_and_of_other_methods_are_simply_run(autojump_clock) -> None:
    till = Till()
    app = Idempotency(till)
    for how in ({"headers": {}}, {"headers": {}}, {"method": "GET"}, {"method": "PUT"}):
        await charge(app, **how)
    assert len(till.charges) == 4
    assert till.claims == [None] * 4


@pytest.mark.parametrize(
    "how",
    [{"body": b"6 EUR"}, {"path": "/refund"}, {"query": b"?to=me"}, {"headers": {**KEY, "Authorization": "Bearer x"}}],
)
async def test_a_key_with_another_request_is_refused(how: dict[str, Any], autojump_clock) -> None:
    till = Till()
    app = Idempotency(till)
    await charge(app)
    refused = await charge(app, **how)
    assert refused.status == 422
    assert refused.problem["type"] == "urn:rumormill:key-reused"
    assert len(till.charges) == 1


async def test_another_request_is_refused_while_the_first_still_runs(autojump_clock) -> None:
    app = Idempotency(Till(takes=5.0))
    first, other = await gathered(lambda: charge(app), lambda: charge(app, b"6 EUR"))
    assert sorted((first.status, other.status)) == [200, 422]


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_bad_key_is_told(key: str) -> None:
    refused = await charge(Idempotency(Till()), headers={"Idempotency-Key": key})
    assert refused.status == 400
    assert "1 to 255" in refused.problem["detail"]


async def test_a_required_key_is_asked_for(autojump_clock) -> None:
    app = Idempotency(Till(), required=True)
    refused = await charge(app, headers={})
    assert refused.status == 400
    assert "Idempotency-Key" in refused.problem["detail"]
    assert (await charge(app, headers={}, method="GET")).status == 200


async def test_a_function_may_give_the_key(autojump_clock) -> None:
    till = Till()
    app = Idempotency(till, key=lambda request: request.body if request.path == "/charge" else None)
    for _ in range(3):
        await charge(app, headers={}, path="/charge")
        await charge(app, headers={}, path="/other")
    assert len(till.charges) == 4


@pytest.mark.parametrize(("status", "charges"), [(201, 1), (404, 1), (500, 1), (502, 1), (429, 2), (503, 2), (401, 2)])
async def test_refusals_are_not_kept_and_failures_are(status: int, charges: int, autojump_clock) -> None:
    till = Till(status=status)
    app = Idempotency(till)
    assert [(await charge(app)).status for _ in range(2)] == [status, status]
    assert len(till.charges) == charges


async def test_an_app_that_raises_has_failed_and_is_not_run_again(autojump_clock) -> None:
    async def fail() -> None:
        raise KeyError("price")

    till = Till(after=fail)
    app = Idempotency(till)
    with pytest.raises(KeyError):
        await charge(app)
    again = await charge(app)
    assert again.status == 500
    assert again.problem["type"] == "urn:rumormill:failed"
    assert len(till.charges) == 1


async def test_a_body_beyond_the_limit_is_refused(autojump_clock) -> None:
    till = Till()
    app = Idempotency(till, max_body=10)
    assert (await charge(app, b"x" * 11)).status == 413
    assert (await charge(app, b"x" * 11, headers={})).status == 200


async def test_websockets_and_lifespan_pass_through() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: object) -> Any:
        raise AssertionError

    for kind in ("websocket", "lifespan"):
        await Idempotency(app)({"type": kind}, nothing, nothing)
    assert seen == ["websocket", "lifespan"]


def test_rules_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="no longer than the window"):
        ClaimRules(lease=61.0)
    with pytest.raises(ValueError, match="negative"):
        ClaimRules(wait=-1.0)
