"""Callers that let a language model complete a text, through the client library, and read its answer token by token.

A number of users ask one after the other (closed loop, so a slow machine is not overrun). The model completes greedily
(temperature 0), so a beginning has one right answer: the one that was given before anything was disturbed. Every later
answer is compared with it. The prompts are short, because the model computes on the processor.

The library hides a worker's death until the first byte of the answer has reached the caller. After that it cannot: it
raises :class:`ResponseInterruptedError` at once, and the caller decides. These callers ask again, and count the cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Final

import httpx2
import trio

from rumormill.cli.demo.llama_server import MODEL_NAME
from rumormill.cli.demo.request_log import RequestLog, RequestOutcome
from rumormill.client import Pool, ResponseInterruptedError

BEGINNINGS: Final = (
    "The sky is blue because",
    "Three primary colors are",
    "A heartbeat is",
    "Rivers flow to the",
    "Bees make honey from",
    "A rumor spreads when",
)
MAX_TOKENS: Final = 8
TIMEOUT_SECONDS: Final = 120.0
"""Between two tokens. A worker that computes on a busy machine is slow, not dead."""
PAUSE_SECONDS: Final = 0.2
"""Between two answers of a user."""


class StreamBroken(Exception):
    """The answer is not a complete stream of tokens; the text says why."""


class StreamCaller:
    """Asks until :meth:`finish`."""

    def __init__(self, urls: Sequence[str], *, service: str, request_log: RequestLog, users: int) -> None:
        self._urls = list(urls)
        self._service = service
        self._request_log = request_log
        self._running = 0
        self._asked = 0
        self._nursery: trio.Nursery | None = None
        self._http: httpx2.AsyncClient | None = None
        self._wanted = users
        self._ending = trio.Event()
        self._ended = trio.Event()
        self.right_answers: dict[str, str] = {}
        """How the model completes each beginning undisturbed."""
        self.streams: dict[int, tuple[str, str]] = {}
        """For each answer under way: its worker, and the text so far."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reports ``started`` when the right answers are known. Ends after :meth:`finish`."""
        pool = Pool(self._urls, service=self._service, replay="always", hedge=False)
        async with (
            pool,
            httpx2.AsyncClient(
                transport=pool.transport(), base_url=f"http://{self._service}", timeout=TIMEOUT_SECONDS
            ) as http,
        ):
            self._http = http
            for beginning in BEGINNINGS:
                self.right_answers[beginning] = await self._answer(beginning, "undisturbed", 0)
            task_status.started()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.set_users(self._wanted)
                await self._ending.wait()
        self._ended.set()

    async def finish(self) -> None:
        """Ask nothing more, and wait for every outcome."""
        self._ending.set()
        await self._ended.wait()

    def set_users(self, count: int) -> None:
        """So many users ask from now on. Those too many end after their current answer."""
        assert self._nursery is not None  # noqa: S101  for the type checker: run() has started
        self._wanted = count
        while self._running < count:
            self._running += 1
            self._nursery.start_soon(self._user, self._running)

    async def _user(self, number: int) -> None:
        while self._running <= self._wanted and not self._ending.is_set():
            self._asked += 1
            await self._ask(BEGINNINGS[self._asked % len(BEGINNINGS)], f"user-{number}", self._asked)
            with trio.move_on_after(PAUSE_SECONDS):
                await self._ending.wait()
        self._running -= 1

    async def _ask(self, beginning: str, key: str, number: int) -> None:
        """One beginning to its answer, and again if the answer is cut."""
        begun = time.monotonic()
        trouble = wrong = None
        while True:
            try:
                text = await self._answer(beginning, key, number)
            except ResponseInterruptedError:
                self._request_log.cuts.append(time.monotonic())
                continue
            except Exception as error:  # whatever the error is, the request has failed
                trouble = f"{type(error).__name__}: {error}"
            else:
                if text != self.right_answers[beginning]:
                    wrong = f"{beginning!r} was completed otherwise than undisturbed"
            break
        worker, _ = self.streams.pop(number, (None, ""))
        self._request_log.add(RequestOutcome(begun, time.monotonic(), worker, trouble, wrong))

    async def _answer(self, beginning: str, key: str, number: int) -> str:
        """The whole text of one answer. Raises :class:`StreamBroken` and the errors of the client."""
        assert self._http is not None  # noqa: S101  for the type checker: run() has started
        body = {
            "model": MODEL_NAME,
            "prompt": beginning,
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "stream": True,
            "cache_prompt": False,  # the same computation each time
        }
        async with self._http.stream("POST", "/v1/completions", json=body, headers={"Rumormill-Key": key}) as response:
            if not response.is_success:
                raise StreamBroken(f"the answer is {response.status_code}")
            worker, stream = response.extensions["rumormill_worker"].name, CompletionStream()
            async for line in response.aiter_lines():
                stream.feed(line)
                self.streams[number] = worker, f"{beginning}{stream.text}"
        return stream.end()


class CompletionStream:
    """Reads the lines of a stream of OpenAI's completion chunks."""

    def __init__(self) -> None:
        self.text = ""
        self.finished = False
        """Whether the model has said that it has finished."""

    def feed(self, line: str) -> None:
        """Take the next line. Raises :class:`StreamBroken` if it has not the form of OpenAI's."""
        if not line.startswith("data: ") or line == "data: [DONE]":
            return
        try:
            choices = json.loads(line.removeprefix("data: "))["choices"]
            for choice in choices:
                self.text += choice["text"]
                self.finished = self.finished or choice["finish_reason"] is not None
        except (ValueError, KeyError, TypeError):
            raise StreamBroken("a chunk of the stream has not the form of OpenAI's") from None

    def end(self) -> str:
        """The whole text. Raises :class:`StreamBroken` if the stream has ended too early."""
        if not self.finished:
            raise StreamBroken("the stream ended before the model had finished")
        return self.text
