"""A request on its way: attempts as tasks, the hedging timer, and the answer handed over once.

What a failure or an answer means, who is next and when a hedge is due is decided in retries.py, answers.py,
worker_selector.py and hedging.py; budget.py bounds what is sent twice.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import anyio
import anyio.abc
import httpx

from rumormill.client.answers import Judgement, judge
from rumormill.client.bodies import Body, OneShot, prepare_request_body
from rumormill.client.budget import Budgets
from rumormill.client.direct_check import check_evicted
from rumormill.client.errors import no_workers, not_replayable
from rumormill.client.hedging import FLOOR, LatencyWindow, LatencyWindows, kind_of
from rumormill.client.in_flight import InFlightRegistry, InFlightRequest, WorkerLost
from rumormill.client.live_body import LiveBody
from rumormill.client.replay import Replay, why_not_replayable
from rumormill.client.retries import ATTEMPTS, Attempt, Failure, RequestState, RetryDecision, failure_of
from rumormill.client.topology import Topology
from rumormill.client.upstream import SendProgress, Upstream
from rumormill.client.worker_selector import WorkerSelector
from rumormill.ring.worker import Worker

KEY_HEADER = "Rumormill-Key"
OWN_PAUSE = 0.010
"""Seconds that the hedging timer may come late before the delay is held to be this process's own."""
HEDGE_AGAIN = 0.5
"""Seconds until a hedge in doubt is tried again where the budget had nothing left. Doubt may last for minutes: less
keeps this process busy with all who wait, more lets them wait for longer than the budget makes them."""
WARN_EVERY = 60.0
"""Seconds between two warnings that too many workers fail."""

log = logging.getLogger("rumormill.client")

_KEY_HEADER = KEY_HEADER.lower().encode()


class Dispatcher:
    """Sends requests to the workers of one topology, which may be replaced at any time."""

    def __init__(
        self, standings: WorkerSelector, *, tls: Callable[[], ssl.SSLContext], hedge: bool, now: float
    ) -> None:
        self.standings = standings
        self.latencies = LatencyWindows()
        self.hedges = hedge
        self.budgets = Budgets(now)
        self.waiting: set[_HedgedRequest] = set()
        """For an answer that may be late."""
        self.register = InFlightRegistry()
        self._tls = tls
        self._lines: dict[str, Upstream] = {}
        self._warned = -inf

    @property
    def topology(self) -> Topology:
        return self.standings.topology

    def adopt(self, topology: Topology) -> list[Upstream]:
        """Send to these workers from now on. Returns lines to close."""
        doubtful = self.standings.suspects | self.standings.critical
        self.standings.adopt(topology, anyio.current_time())
        self.register.adopt(topology)
        if (self.standings.suspects | self.standings.critical) - doubtful:
            for race in self.waiting:
                race.stir()
        wanted = {worker.url for worker in topology.workers} | {worker.url for _, worker in topology.departed}
        idle = [url for url, line in self._lines.items() if url not in wanted and not line.in_use]
        return [self._lines.pop(url) for url in idle]

    def take_lines(self) -> list[Upstream]:
        """Every line, to be closed: this is the end."""
        lines, self._lines = list(self._lines.values()), {}
        return lines

    async def check_evicted(self) -> None:
        """Ask evicted workers at which something is under way, and end it where they are gone; for ever."""
        await check_evicted(self.register, self._tls)

    def answered(self, attempt: Attempt, judgement: Judgement, now: float) -> None:
        """A worker answered: let it count."""
        if (
            not self.standings.answered(attempt.worker, judgement, attempt.began, now)
            and now > self._warned + WARN_EVERY
        ):
            self._warned = now
            log.warning(
                "more than half of the workers of %r fail; %s is asked all the same, lest the others get everything",
                self.topology.service,
                attempt.worker.name,
            )

    def begin(self, worker: Worker) -> InFlightRequest:
        """Work at this worker begins. Raises httpx.UnsupportedProtocol where its URL is of no use."""
        line = self._lines.get(worker.url)
        if line is None:
            line = self._lines[worker.url] = Upstream(worker.url, self._tls)
        return self.register.begin(worker, line, self.standings)

    @contextmanager
    def lease(self, key: str | bytes | None) -> Iterator[Worker]:
        """A worker for a client of the caller's own, counted as busy until the block ends."""
        began = anyio.current_time()
        worker = self.standings.pick(key, (), began)
        if worker is None:
            raise no_workers(None, self.topology, began)
        self.standings.begin(worker)
        try:
            yield worker
            self.standings.answered(worker, Judgement(good=True), began, anyio.current_time())
        except (httpx.TransportError, OSError):
            self.standings.failed(worker, began, anyio.current_time())
            raise
        finally:
            self.standings.end(worker)

    async def send(self, request: httpx.Request, replay: Replay) -> httpx.Response:
        """The answer of the first worker that gives one. Raises PoolError, and what is the caller's own doing."""
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("this transport is for httpx.AsyncClient; httpx.Client takes that of a SyncPool")
        body = await prepare_request_body(request.stream)
        one_shot = isinstance(body, OneShot)
        unreplayable = why_not_replayable(replay, request.method, request.headers, one_shot=one_shot)
        course = RequestState(f"{request.method} {request.url.path}", unreplayable, one_shot=one_shot)
        self.budgets.asked(anyio.current_time())
        kind = kind_of(request.method, request.url.path, request.headers.get("content-length"))
        race = _HedgedRequest(self, request, body, course, self.latencies.of(kind))
        return await race.run()


class _HedgedRequest:
    """One request, and the attempts at it."""

    def __init__(
        self, dispatcher: Dispatcher, request: httpx.Request, body: Body, course: RequestState, latency: LatencyWindow
    ) -> None:
        self._dispatcher = dispatcher
        self._standings = dispatcher.standings
        self._request = request
        self._body = body
        self._course = course
        self._latency = latency
        self._key = next((value for name, value in request.headers.raw if name.lower() == _KEY_HEADER), None)
        self._over = anyio.Event()
        self._stirred = anyio.Event()
        self._retries = 0
        """Paid for by the budget."""
        self._refusal: httpx.Response | None = None
        """The last answer that is the caller's only if nobody does better."""
        self._response: httpx.Response | None = None
        self._error: Exception | None = None

    async def run(self) -> httpx.Response:
        try:
            async with anyio.create_task_group() as tasks:
                self._try_next(tasks)
                await self._hedge_while_late(tasks)
                await self._over.wait()
                tasks.cancel_scope.cancel()
        finally:
            if self._refusal is not None and self._refusal is not self._response:
                await _close_response(self._refusal)
        if self._response is None:
            raise self._error or RuntimeError("a race ended without an outcome")
        self._response.extensions[ATTEMPTS] = tuple(self._course.attempts)
        return self._response

    async def _hedge_while_late(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask one more worker each time an answer is late, until there is one or nobody to ask; then return."""
        if not self._dispatcher.hedges:
            return
        self._dispatcher.waiting.add(self)
        try:
            since = doubted_since = -inf
            while self._course.may_hedge:
                newest = self._course.attempts[-1]
                doubtful = self._standings.doubted(newest.worker) or self._standings.unwell(newest.worker)
                if doubtful:
                    due = max(newest.began + FLOOR, doubted_since + HEDGE_AGAIN)
                else:
                    due = max(newest.began, since) + self._patience
                due = max(due, anyio.current_time())
                await self._stirred_by(due)
                now = anyio.current_time()
                # Held up ourselves? Then the answer may be there and only wait to be read.
                if await self._over_by(now + (now - due) if now - due > OWN_PAUSE else now):
                    return
                if now >= due and self._course.attempts[-1] is newest:
                    since = anyio.current_time()
                    doubted_since = since if doubtful else doubted_since
                    self._hedge(tasks)
        finally:
            self._dispatcher.waiting.discard(self)

    @property
    def _patience(self) -> float:
        """Seconds until an answer is late; infinite where nothing is known of its kind."""
        delay = self._latency.delay
        return inf if delay is None else delay

    def stir(self) -> None:
        """Something has happened that may make a hedge due."""
        self._stirred.set()

    async def _stirred_by(self, deadline: float) -> None:
        self._stirred = anyio.Event()
        if not self._over.is_set():
            with anyio.CancelScope(deadline=deadline):
                await self._stirred.wait()

    async def _over_by(self, deadline: float) -> bool:
        if not self._over.is_set() and deadline > anyio.current_time():
            with anyio.CancelScope(deadline=deadline):
                await self._over.wait()
        return self._over.is_set()

    def _hedge(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask the next worker as well, if there is one to spare and the budget allows it."""
        now = anyio.current_time()
        running = (attempt for attempt in self._course.attempts if attempt.running)
        doubt = all(self._standings.in_doubt(attempt.worker, attempt.began) for attempt in running)
        budget = self._dispatcher.budgets.doubt if doubt else self._dispatcher.budgets.late
        if not budget.spend(now):
            return
        worker = self._standings.pick(self._key, self._course.tried, now, last_resort=False)
        if worker is None:
            self._course.no_more_hedges = True
            budget.give_back(1)
        else:
            self._start(worker, tasks)

    def _try_next(self, tasks: anyio.abc.TaskGroup) -> None:
        now = anyio.current_time()
        if not self._start_next(tasks, now) and not self._course.running:
            self._end_without_worker(now)

    def _retry(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask the next worker because of what one answered, if there is one and the budget allows it."""
        now, budget = anyio.current_time(), self._dispatcher.budgets.retries
        if budget.spend(now):
            if self._start_next(tasks, now):
                self._retries += 1
                return
            budget.give_back(1)
        if not self._course.running:
            self._end_without_worker(now)

    def _start_next(self, tasks: anyio.abc.TaskGroup, now: float) -> bool:
        """Ask the next worker; False if there is none."""
        worker = self._standings.pick(self._key, self._course.tried, now)
        if worker is not None:
            self._start(worker, tasks)
        return worker is not None

    def _end_without_worker(self, now: float) -> None:
        """Nobody is left, or nobody that may be asked: the last real answer is the caller's, if there was one."""
        self._response = self._refusal
        if self._response is not None:
            self._finish()
        else:
            self._end(self._course.mistake or no_workers(self._course, self._standings.topology, now))

    def _start(self, worker: Worker, tasks: anyio.abc.TaskGroup) -> None:
        attempt = self._course.begin(worker, anyio.current_time())
        if isinstance(asked := self._request.extensions.get(ATTEMPTS), list):
            asked.append(attempt)
        try:
            # Here and not in the task: who is picked next, for another request, must see that this one is on its way.
            work = self._dispatcher.begin(worker)
        except httpx.UnsupportedProtocol as error:
            self._failed(attempt, failure_of(error, sent=False) or error, tasks)
        else:
            tasks.start_soon(self._attempt, attempt, work, tasks)

    async def _attempt(self, attempt: Attempt, work: InFlightRequest, tasks: anyio.abc.TaskGroup) -> None:
        progress = SendProgress(self._request)
        answered = False
        try:
            response = await work.run(lambda: work.line.send(self._request, self._body, progress))
            answered = await self._answered(attempt, work, response, tasks)
            if not answered:
                await _close_response(response)
        except WorkerLost as lost:
            self._failed(attempt, Failure(lost.reason, sent=progress.sent, cause=lost), tasks)
        except Exception as error:
            self._failed(attempt, failure_of(error, sent=progress.sent) or error, tasks)
        finally:
            if not answered:
                work.close()

    async def _answered(
        self, attempt: Attempt, work: InFlightRequest, response: httpx.Response, tasks: anyio.abc.TaskGroup
    ) -> bool:
        """Take this answer, or keep it in case nobody gives a better one; False if it is nobody's.

        It is nobody's when another attempt has been answered already.
        """
        if self._over.is_set():
            return False
        now = anyio.current_time()
        judgement = judge(response.status_code, response.headers.get("retry-after", ""))
        self._dispatcher.answered(attempt, judgement, now)
        response = self._handed_over(response, attempt, work)
        if not self._course.asks_another(judgement):
            self._win(attempt, judgement, response, now)
            return True
        worse, self._refusal = self._refusal, response
        self._course.refuse(attempt, response.status_code)
        self._retry(tasks)
        if worse is not None:
            await _close_response(worse)
        return True

    def _win(self, attempt: Attempt, judgement: Judgement, response: httpx.Response, now: float) -> None:
        if judgement.good:
            self._latency.record(now - attempt.began)
        if not judgement.sick:
            self._dispatcher.budgets.answered_well(now, self._retries)
        for loser in self._course.settle(attempt):
            self._standings.overtaken(loser.worker, loser.began, now)
        self._response = response
        self._finish()

    def _handed_over(self, response: httpx.Response, attempt: Attempt, work: InFlightRequest) -> httpx.Response:
        """The response as the caller gets it: a whole one ends the work, a stream keeps it under way."""
        stream = response.stream
        if isinstance(stream, httpx.ByteStream) or not isinstance(stream, httpx.AsyncByteStream):
            work.close()
        else:
            stream = LiveBody(stream, work, self._standings)
        extensions = {**response.extensions, "rumormill_worker": attempt.worker}
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
            self._standings.failed(attempt.worker, attempt.began, now)
        match self._course.fail(attempt, failure):
            case RetryDecision.NEXT:
                self._try_next(tasks)
            case RetryDecision.NOT_REPLAYABLE:
                self._end(not_replayable(self._course, attempt, failure, self._standings.topology, now))
            case RetryDecision.AS_IT_IS:
                error = failure.cause or RuntimeError(failure.what)
                # For those who keep figures.
                error.attempts = tuple(self._course.attempts)  # type: ignore[attr-defined]
                self._end(error)
            case RetryDecision.WAIT:
                pass

    def _end(self, error: Exception) -> None:
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._over.set()
        self.stir()


async def _close_response(response: httpx.Response) -> None:
    with anyio.CancelScope(shield=True):
        await response.aclose()
