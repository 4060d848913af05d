"""A caller that sends a stream of keyed requests through the client library, and checks each answer.

The stream is open-loop: each request is sent on time, whether or not the previous one has been answered. So a slow
second shows as a hundred slow requests and not as one. Latency counts from handing the request to the library. How late
the caller itself was is recorded too.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import httpx2
import trio

from rumormill.cli.demo.embedding import MODEL, embed
from rumormill.cli.demo.request_log import RequestOutcome
from rumormill.cli.demo.sample_texts import SENTENCES
from rumormill.cli.demo.worker import ANSWERED_BY
from rumormill.client import Pool

Replay = Literal["always", "idempotent", "never"]

USERS = 1000
TIMEOUT_SECONDS = 10.0
"""A request that takes longer has failed."""


def check_exactly(text: str, answer: Any) -> str | None:
    """Compute the embedding here too, and compare the numbers exactly. Returns what is wrong, or None."""
    vector, wrong = _vector(answer)
    if wrong is None and vector != embed(text):
        return "the embedding is not that of the text sent"
    return wrong


def check_shape(answer: Any) -> str | None:
    """For a foreign model: the answer must be a list of numbers, not all zero. Returns what is wrong, or None."""
    vector, wrong = _vector(answer)
    if wrong is not None:
        return wrong
    if not vector or not all(isinstance(value, int | float) for value in vector) or not any(vector):
        return "the embedding is not a list of numbers"
    return None


def _vector(answer: Any) -> tuple[list[Any], str | None]:
    try:
        vector = answer["data"][0]["embedding"]
    except (KeyError, IndexError, TypeError):
        return [], "the answer holds no embedding"
    return (vector, None) if isinstance(vector, list) else ([], "the embedding is not a list")


class Caller:
    """Sends requests at a steady rate until cancelled. ``record`` gets each outcome at its end.

    ``foreign`` workers run another model: only the shape of their answers is checked.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        service: str,
        record: Callable[[RequestOutcome], None],
        rate: float = 100.0,
        replay: Replay = "always",
        foreign: bool = False,
        model: str = MODEL,
        rng: random.Random,
    ) -> None:
        self._urls = list(urls)
        self._service = service
        self._record = record
        self._rate = rate
        self._replay: Replay = replay
        self._foreign = foreign
        self._model = model
        self._rng = rng
        self._ending = trio.Event()
        self._ended = trio.Event()

    async def finish(self) -> None:
        """Send nothing more, and wait for the outcome of every request, so that none is missing in the figures."""
        self._ending.set()
        await self._ended.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reports ``started`` when the library has its first list of workers. Ends after :meth:`finish`."""
        async with (
            Pool(self._urls, service=self._service, replay=self._replay) as pool,
            httpx2.AsyncClient(
                transport=pool.transport(), base_url=f"http://{self._service}", timeout=TIMEOUT_SECONDS
            ) as http,
            trio.open_nursery() as nursery,
        ):
            task_status.started()
            due = time.monotonic()
            while not self._ending.is_set():
                await trio.sleep(max(0.0, due - time.monotonic()))
                nursery.start_soon(self._request, http, due)
                due += 1 / self._rate
        self._ended.set()

    async def _request(self, http: httpx2.AsyncClient, due: float) -> None:
        text = " ".join(self._rng.sample(SENTENCES, 2))
        headers = {"Rumormill-Key": f"user-{self._rng.randrange(USERS)}", "Content-Type": "application/json"}
        body = json.dumps({"input": text, "model": self._model})
        begun = time.monotonic()
        worker = trouble = wrong = None
        try:
            response = await http.post("/v1/embeddings", content=body, headers=headers)
        except Exception as error:  # whatever the error is, the request has failed
            trouble = f"{type(error).__name__}: {error}"
        ended = time.monotonic()
        if trouble is None:
            worker = response.extensions["rumormill_worker"].name
            if not response.is_success:
                trouble = f"the answer is {response.status_code}: {response.text[:200]}"
            elif self._foreign:
                wrong = check_shape(_json(response))
            elif response.headers.get(ANSWERED_BY) != worker:
                wrong = "the answer is from another worker than the library says"
            else:
                wrong = check_exactly(text, _json(response))
        self._record(RequestOutcome(begun, ended, worker, trouble, wrong, late=max(0.0, begun - due)))


def _json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
