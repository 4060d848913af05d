"""A request with a key when workers die, freeze, or lose their store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
import trio
from test_idempotency import RULES, Till, charge, gathered

from rumormill.worker import ClaimRules, Idempotency, MemoryStore, StoreUnavailableError, current_claim
from rumormill.worker.asgi import KeptAnswer
from rumormill.worker.stores import Claimed


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
