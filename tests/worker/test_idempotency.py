"""A request with a key is run once: repeats, races, deaths, broken stores, streams and hang-ups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
import trio
from asgi_caller import Answer, call

from rumormill.worker import Claim, ClaimRules, Idempotency, MemoryStore, StoreUnavailableError, current_claim
from rumormill.worker.asgi import KeptAnswer, Receive, Scope, Send
from rumormill.worker.stores import Claimed

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


# Deaths.


async def die(app: Idempotency, after: float) -> None:
    """Send a request whose worker dies with it. To the store, a cancelled task looks like that."""
    with trio.move_on_after(after):
        await charge(app)


async def test_a_call_whose_worker_died_is_taken_over_and_knows_it(autojump_clock) -> None:
    store, till = MemoryStore(), Till(takes=2.0)
    await die(Idempotency(till, store, rules=RULES), after=1.0)
    began = trio.current_time()
    answer = await charge(Idempotency(till, store, rules=RULES))
    assert answer.body == b"charge 1"
    assert trio.current_time() - began == pytest.approx(RULES.lease - 1.0 + 2.0, abs=0.3)
    assert [claim and claim.attempt for claim in till.claims] == [1, 2]
    assert [claim and claim.taken_over for claim in till.claims] == [False, True]


async def test_at_most_once_an_outcome_is_unknown_instead(autojump_clock) -> None:
    rules = ClaimRules(lease=3.0, at_most_once=True)
    store, till = MemoryStore(), Till(takes=2.0)
    app = Idempotency(till, store, rules=rules)
    await die(app, after=1.0)
    for _ in range(2):
        unknown = await charge(app)
        assert unknown.status == 409
        assert unknown.problem["type"] == "urn:rumormill:unknown-outcome"
    assert till.charges == []
    await trio.sleep(rules.window + rules.lease)
    assert (await charge(app)).status == 200


async def test_a_long_call_renews_its_lease(autojump_clock) -> None:
    till = Till(takes=15.0)
    app = Idempotency(till, rules=RULES)
    answers = await gathered(lambda: charge(app), lambda: charge(app))
    assert [answer.body for answer in answers] == [b"charge 1"] * 2


async def test_a_repeat_does_not_wait_for_ever(autojump_clock) -> None:
    app = Idempotency(Till(takes=30.0), rules=RULES)
    first, late = await gathered(lambda: charge(app), lambda: charge(app))
    assert sorted((first.status, late.status)) == [200, 409]
    refused = late if late.status == 409 else first
    assert refused.problem["type"] == "urn:rumormill:still-running"
    assert refused.headers["retry-after"] == "1"


class FrozenStore(MemoryStore):
    """A store that can break and mend."""

    broken = False

    def __getattribute__(self, name: str) -> Any:
        if name in ("claim", "renew", "finish", "release") and self.broken:

            async def fail(*_: object) -> None:
                raise StoreUnavailableError("the store is away")

            return fail
        return super().__getattribute__(name)


async def test_a_store_that_is_away_lets_nothing_run(autojump_clock) -> None:
    store, till = FrozenStore(), Till()
    app = Idempotency(till, store)
    store.broken = True
    refused = await charge(app)
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert till.charges == []
    store.broken = False
    assert (await charge(app)).body == b"charge 1"


async def test_a_store_that_hangs_lets_nothing_run(autojump_clock) -> None:
    class Hanging(MemoryStore):
        async def claim(self, *_: object) -> Any:
            await anyio.sleep_forever()

    till = Till()
    assert (await charge(Idempotency(till, Hanging()))).status == 503
    assert till.charges == []


async def test_a_worker_that_cannot_renew_gives_the_call_up_before_another_may_take_it(autojump_clock) -> None:
    store, till = FrozenStore(), Till(takes=10.0)
    app = Idempotency(till, store, rules=RULES)

    async def break_soon() -> None:
        store.broken = True

    till.before = break_soon
    refused = await charge(app)
    assert refused.status == 409
    assert refused.problem["type"] == "urn:rumormill:claim-lost"
    assert till.charges == []
    assert trio.current_time() < RULES.lease + 2


async def test_a_store_that_breaks_after_the_effect_costs_the_caller_nothing(autojump_clock) -> None:
    store, till = FrozenStore(), Till()
    app = Idempotency(till, store, rules=RULES)

    async def break_now() -> None:
        store.broken = True

    till.after = break_now
    answer = await charge(app)
    assert (answer.status, answer.body) == (200, b"charge 1")
    assert answer.headers["idempotency-kept"] == "false"


async def test_a_store_that_mends_in_time_gets_the_answer(autojump_clock) -> None:
    store, till = FrozenStore(), Till()
    app = Idempotency(till, store, rules=RULES)

    async def break_for_a_second() -> None:
        store.broken = True
        trio.lowlevel.spawn_system_task(mend)

    async def mend() -> None:
        await trio.sleep(1)
        store.broken = False

    till.after = break_for_a_second
    answer = await charge(app)
    assert "idempotency-kept" not in answer.headers
    assert (await charge(app)).headers["idempotency-replayed"] == "true"


async def test_a_zombie_cannot_overwrite_the_answer_of_its_successor(autojump_clock) -> None:
    """The first worker's loop stands still for longer than its lease, as if the process had been stopped."""
    store, zombie = MemoryStore(), Till()

    async def stand_still() -> None:  # nothing here lets another task run
        autojump_clock.jump(RULES.lease + 1)
        claim = current_claim()
        assert claim is not None
        successor = replace(claim.request, token=b"successor")
        assert await store.claim(claim.key, successor) == Claimed(2)
        assert await store.finish(claim.key, successor, KeptAnswer(200, [], b"the successor's").encode())

    zombie.after = stand_still
    app = Idempotency(zombie, store, rules=RULES)
    late = await charge(app)
    assert late.status == 409
    assert late.problem["type"] == "urn:rumormill:claim-lost"
    assert (await charge(app)).body == b"the successor's"
    assert len(zombie.charges) == 1


# Streams, long answers, callers that hang up.


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
