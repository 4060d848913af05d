"""The worker of the bench of effects: `python -m bench.effects_worker --help`. It charges, and it converses.

A charge appends a byte to a file named after the charge, so a charge that acted twice has two bytes. A turn of a
conversation answers with the turns before it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Literal, get_args

import anyio
import click
import uvicorn

from rumormill.worker import ClaimRules, Idempotency, Sessions, current_claim
from rumormill.worker.asgi import App, Receive, Scope, Send
from rumormill.worker.redis_store import RedisStore

Effect = Literal["plain", "looks", "unique"]
"""``plain`` acts whenever it runs. ``looks`` looks first whether a dead owner has acted. ``unique`` writes under the
charge's name, which takes one byte only."""
THINK_SECONDS = 0.010


class ChargingWorker:
    """The app itself."""

    def __init__(self, folder: Path, effect: Effect, sessions: Sessions) -> None:
        self._folder = folder
        self._effect = effect
        self._sessions = sessions
        self._rng = random.Random()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # servers take that as an app without a lifespan
        asked = json.loads((await receive())["body"])
        answer: Any = await (self._charge(asked) if scope["path"] == "/charge" else self._turn(asked))
        body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _charge(self, asked: dict[str, Any]) -> dict[str, Any]:
        charge = self._folder / str(asked["id"])
        await anyio.sleep(self._rng.uniform(0, 2 * THINK_SECONDS))
        claim = current_claim()
        done = self._effect == "looks" and claim is not None and claim.taken_over and charge.exists()
        if not done:
            with charge.open("wb" if self._effect == "unique" else "ab") as ledger:
                ledger.write(b"x")
        await anyio.sleep(self._rng.uniform(0, THINK_SECONDS))
        return {"charged": asked["id"]}

    async def _turn(self, asked: dict[str, Any]) -> dict[str, Any]:
        before = await self._sessions.turns(asked["session"], before=asked["id"])
        await anyio.sleep(self._rng.uniform(0, THINK_SECONDS))
        await self._sessions.append(asked["session"], asked["text"], turn_id=asked["id"])
        return {"before": before}


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--redis", "redis_url", required=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where charges are written.")
@click.option("--effect", type=click.Choice(get_args(Effect)), default="plain")
@click.option("--lease", type=float, default=1.0, help="Seconds.")
@click.option("--window", type=float, default=60.0, help="Seconds.")
@click.option("--at-most-once", is_flag=True)
@click.option("--unguarded", is_flag=True, help="Without the middleware.")
def run(
    port: int,
    redis_url: str,
    folder: Path,
    effect: Effect,
    lease: float,
    window: float,
    at_most_once: bool,
    unguarded: bool,
) -> None:
    store = RedisStore.from_url(redis_url, restart_window=window + lease)
    app: App = ChargingWorker(folder, effect, Sessions(store))
    if not unguarded:
        rules = ClaimRules(lease=lease, window=window, at_most_once=at_most_once)
        app = Idempotency(app, store, rules=rules, required=True)
    served: Any = app  # the worker's own protocol of ASGI and uvicorn's differ in their types only
    uvicorn.run(served, host="127.0.0.1", port=port, log_level="error", lifespan="off", access_log=False)


if __name__ == "__main__":
    run()
