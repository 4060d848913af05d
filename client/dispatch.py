"""A request on its way: attempts as tasks, the hedging timer, and the answer handed over once.

What a failure means, who is next and when a hedge is due is decided in course.py, standing.py and hedging.py.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import anyio
import anyio.abc
import httpx

from rumormill.client.bodies import Body, OneShot, prepare_request_body
from rumormill.client.course import Attempt, Course, Failure, Verdict, failure_of
from rumormill.client.direct_check import check_evicted
from rumormill.client.errors import PoolError, no_workers, not_replayable, response_interrupted
from rumormill.client.exchange import Line, Progress
from rumormill.client.hedging import Budget, Pace
from rumormill.client.replay import Replay, why_not_replayable
from rumormill.client.standing import Standings
from rumormill.client.topology import Topology
from rumormill.client.work import Register, Work, WorkerLost
from rumormill.ring.worker import Worker

KEY_HEADER = "Rumormill-Key"
OWN_PAUSE = 0.010
"""Seconds that the hedging timer may come late before the delay is held to be this process's own."""

_KEY_HEADER = KEY_HEADER.lower().encode()


class Dispatcher:
    """Sends requests to the workers of one topology, which may be replaced at any time."""

    def __init__(self, standings: Standings, *, tls: Callable[[], ssl.SSLContext], hedge: bool, now: float) -> None:
        self.standings = standings
        self.pace = Pace()
        self.hedges = hedge
        self.budget = Budget(now)
        self.register = Register()
        self._tls = tls
        self._lines: dict[str, Line] = {}

    @property
    def topology(self) -> Topology:
        return self.standings.topology

    def adopt(self, topology: Topology) -> list[Line]:
        """Send to these workers from now on. Returns lines to close."""
        self.standings.adopt(topology, anyio.current_time())
        self.register.adopt(topology)
        wanted = {worker.url for worker in topology.workers} | {worker.url for _, worker in topology.departed}
        idle = [url for url, line in self._lines.items() if url not in wanted and not line.in_use]
        return [self._lines.pop(url) for url in idle]

    def take_lines(self) -> list[Line]:
        """Every line, to be closed: this is the end."""
        lines, self._lines = list(self._lines.values()), {}
        return lines

    async def check_evicted(self) -> None:
        """Ask evicted workers at which something is under way, and end it where they are gone; for ever."""
        await check_evicted(self.register, self._tls)

    def begin(self, worker: Worker) -> Work:
        """Work at this worker begins. Raises httpx.UnsupportedProtocol where its URL is of no use."""
        line = self._lines.get(worker.url)
        if line is None:
            line = self._lines[worker.url] = Line(worker.url, self._tls)
        return self.register.begin(worker, line, self.standings)

    @contextmanager
    def lease(self, key: str | bytes | None) -> Iterator[Worker]:
        """A worker for a client of the caller's own, counted as busy until the block ends."""
        worker = self.standings.pick(key, (), anyio.current_time())
        if worker is None:
            raise no_workers(None, self.topology, anyio.current_time())
        self.standings.begin(worker)
        try:
            yield worker
        except (httpx.TransportError, OSError):
            self.standings.failed(worker, anyio.current_time())
            raise
        finally:
            self.standings.end(worker)

    async def send(self, request: httpx.Request, replay: Replay) -> httpx.Response:
        """The answer of the first worker that gives one. Raises PoolError, and what is the caller's own doing."""
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("this transport is for httpx.AsyncClient; httpx.Client takes that of a SyncPool")
        body = await prepare_request_body(request.stream)
        unreplayable = why_not_replayable(replay, request.method, request.headers, one_shot=isinstance(body, OneShot))
        course = Course(f"{request.method} {request.url.path}", unreplayable)
        self.budget.earn(anyio.current_time())
        race = _Race(self, request, body, course)
        return await race.run()


class _Race:
    """One request, and the attempts at it."""

    def __init__(self, dispatcher: Dispatcher, request: httpx.Request, body: Body, course: Course) -> None:
        self._dispatcher = dispatcher
        self._standings = dispatcher.standings
        self._request = request
        self._body = body
        self._course = course
        self._key = next((value for name, value in request.headers.raw if name.lower() == _KEY_HEADER), None)
        self._over = anyio.Event()
        self._response: httpx.Response | None = None
        self._error: Exception | None = None

    async def run(self) -> httpx.Response:
        async with anyio.create_task_group() as tasks:
            self._try_next(tasks)
            await self._hedge_while_late(tasks)
            await self._over.wait()
            tasks.cancel_scope.cancel()
        if self._response is None:
            raise self._error or RuntimeError("a race ended without an outcome")
        return self._response

    async def _hedge_while_late(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask one more worker each time an answer is late, until there is one or nobody to ask; then return."""
        since = 0.0
        while self._dispatcher.hedges and self._course.may_hedge:
            newest = self._course.attempts[-1]
            due = max(newest.began, since) + self._dispatcher.pace.delay
            if await self._over_by(due):
                return
            since = anyio.current_time()
            # Held up ourselves? Then the answer may be there and only wait to be read.
            if since - due > OWN_PAUSE and await self._over_by(since + (since - due)):
                return
            if self._course.attempts[-1] is newest:
                self._hedge(tasks)

    async def _over_by(self, deadline: float) -> bool:
        with anyio.CancelScope(deadline=deadline):
            await self._over.wait()
        return self._over.is_set()

    def _hedge(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask the next worker as well, if there is one to spare."""
        now = anyio.current_time()
        worker = self._standings.pick(self._key, self._course.tried, now, last_resort=False)
        if worker is None:
            self._course.no_more_hedges = True
        elif self._dispatcher.budget.spend(now):
            self._start(worker, tasks)

    def _try_next(self, tasks: anyio.abc.TaskGroup) -> None:
        now = anyio.current_time()
        worker = self._standings.pick(self._key, self._course.tried, now)
        if worker is not None:
            self._start(worker, tasks)
        elif not self._course.running:
            self._end(self._course.mistake or no_workers(self._course, self._standings.topology, now))

    def _start(self, worker: Worker, tasks: anyio.abc.TaskGroup) -> None:
        attempt = self._course.begin(worker, anyio.current_time())
        try:
            # Here and not in the task: who is picked next, for another request, must see that this one is on its way.
            work = self._dispatcher.begin(worker)
        except httpx.UnsupportedProtocol as error:
            self._failed(attempt, failure_of(error, sent=False) or error, tasks)
        else:
            tasks.start_soon(self._attempt, attempt, work, tasks)

    async def _attempt(self, attempt: Attempt, work: Work, tasks: anyio.abc.TaskGroup) -> None:
        progress = Progress(self._request)
        answered = False
        try:
            response = await work.run(lambda: work.line.send(self._request, self._body, progress))
            answered = self._win(attempt, work, response)
            if not answered:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except WorkerLost as lost:
            self._failed(attempt, Failure(lost.reason, sent=progress.sent, cause=lost), tasks)
        except Exception as error:
            self._failed(attempt, failure_of(error, sent=progress.sent) or error, tasks)
        finally:
            if not answered:
                work.close()

    def _win(self, attempt: Attempt, work: Work, response: httpx.Response) -> bool:
        """Take this answer, unless another attempt has been answered already; then the response is nobody's."""
        if self._over.is_set():
            return False
        now = anyio.current_time()
        self._dispatcher.pace.record(now - attempt.began)
        self._standings.answered(attempt.worker, now)
        for loser in self._course.settle(attempt):
            self._standings.overtaken(loser.worker, loser.began, now)
        self._response = self._handed_over(response, attempt, work)
        self._over.set()
        return True

    def _handed_over(self, response: httpx.Response, attempt: Attempt, work: Work) -> httpx.Response:
        """The response as the caller gets it: a whole one ends the work, a stream keeps it under way."""
        stream = response.stream
        if isinstance(stream, httpx.ByteStream) or not isinstance(stream, httpx.AsyncByteStream):
            work.close()
        else:
            stream = _LiveBody(stream, work, self._dispatcher)
        extensions = {
            **response.extensions,
            "rumormill_worker": attempt.worker,
            "rumormill_attempts": tuple(self._course.attempts),
        }
        return httpx.Response(response.status_code, headers=response.headers, stream=stream, extensions=extensions)

    def _failed(self, attempt: Attempt, failure: Failure | Exception, tasks: anyio.abc.TaskGroup) -> None:
        if self._over.is_set():
            return
        if isinstance(failure, Exception):
            self._end(failure)
            return
        now = anyio.current_time()
        if failure.by_limit:
            self._standings.overtaken(attempt.worker, attempt.began, now)
        elif not failure.refused_here:
            self._standings.failed(attempt.worker, now)
        match self._course.fail(attempt, failure):
            case Verdict.NEXT:
                self._try_next(tasks)
            case Verdict.NOT_REPLAYABLE:
                self._end(not_replayable(self._course, attempt, failure, self._standings.topology, now))
            case Verdict.AS_IT_IS:
                error = failure.cause or RuntimeError(failure.what)
                # For those who keep figures.
                error.attempts = tuple(self._course.attempts)  # type: ignore[attr-defined]
                self._end(error)
            case Verdict.WAIT:
                pass

    def _end(self, error: Exception) -> None:
        self._error = error
        self._over.set()


class _LiveBody(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """An answer passed on as it comes; it ends with an error as soon as its worker is gone."""

    def __init__(self, stream: httpx.AsyncByteStream, work: Work, dispatcher: Dispatcher) -> None:
        self._stream = stream
        self._chunks = aiter(stream)
        self._work = work
        self._dispatcher = dispatcher

    # An iterator and no generator: callers may leave it half read, and trio minds generators that are.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _next(self) -> bytes | None:
        try:
            return await self._work.run(lambda: anext(self._chunks, None))
        except WorkerLost as lost:
            raise self._interrupted(lost.reason) from lost
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            self._dispatcher.standings.failed(self._work.worker, anyio.current_time())
            raise self._interrupted(str(error) or type(error).__name__) from error

    def _interrupted(self, what: str) -> PoolError:
        return response_interrupted(self._work.worker, what, self._dispatcher.topology, anyio.current_time())

    async def aclose(self) -> None:
        self._work.close()
        with anyio.CancelScope(shield=True):
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()
            await self._stream.aclose()
