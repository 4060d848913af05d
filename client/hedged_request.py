"""One request: its attempts as concurrent tasks, the hedging timer, and the one answer that the caller gets.

This module only runs the attempts. Other modules decide: retries.py what a failure means, response_class.py what a
status means, worker_selector.py which worker is next, hedging.py when a hedge is due, and retry_budget.py how many
requests may be sent twice.
"""

from __future__ import annotations

from math import inf

import anyio
import anyio.abc
import httpx2

from rumormill.client.bodies import Body
from rumormill.client.errors import no_workers, not_replayable
from rumormill.client.hedging import MIN_HEDGE_DELAY, LatencyWindow
from rumormill.client.in_flight import InFlightRequest, WorkerLost
from rumormill.client.response_class import ResponseClass, classify_response
from rumormill.client.retries import ATTEMPTS, Attempt, Failure, RequestState, RetryDecision, failure_of
from rumormill.client.retry_budget import RetryBudgets
from rumormill.client.streamed_body import StreamedBody
from rumormill.client.upstream import SendProgress
from rumormill.client.upstreams import Upstreams
from rumormill.ring.worker import Worker

KEY_HEADER = "Rumormill-Key"
TIMER_LATENESS = 0.010
"""Seconds that the hedging timer may fire late. Beyond that, this process itself was held up."""
HEDGE_RETRY_DELAY = 0.5
"""Seconds until the hedge of a request at a doubtful worker is tried again if the budget was empty. A worker may stay
doubtful for minutes. Less keeps this process busy with every waiting request; more makes them wait longer than the
budget requires."""

_KEY_HEADER = KEY_HEADER.lower().encode()


class HedgedRequest:
    """One request, and the attempts at it."""

    def __init__(
        self,
        upstreams: Upstreams,
        budgets: RetryBudgets,
        request: httpx2.Request,
        body: Body,
        state: RequestState,
        latency: LatencyWindow,
        *,
        hedge: bool,
    ) -> None:
        self._upstreams = upstreams
        self._selector = upstreams.selector
        self._budgets = budgets
        self._request = request
        self._body = body
        self._state = state
        self._latency = latency
        self._hedge_allowed = hedge
        self._key = next((value for name, value in request.headers.raw if name.lower() == _KEY_HEADER), None)
        self._done = anyio.Event()
        self._woken = anyio.Event()
        self._paid_retries = 0
        """Retries that were withdrawn from the budget."""
        self._fallback: httpx2.Response | None = None
        """The last retryable answer. The caller gets it if no other worker does better."""
        self._response: httpx2.Response | None = None
        self._error: Exception | None = None

    async def run(self) -> httpx2.Response:
        try:
            async with anyio.create_task_group() as tasks:
                self._try_next(tasks)
                if self._hedge_allowed:
                    await self._hedge_while_late(tasks)
                await self._done.wait()
                tasks.cancel_scope.cancel()
        finally:
            if self._fallback is not None and self._fallback is not self._response:
                await _close_response(self._fallback)
        if self._response is None:
            raise self._error or RuntimeError("a request ended without an outcome")
        self._response.extensions[ATTEMPTS] = tuple(self._state.attempts)
        return self._response

    # The hedging timer.

    async def _hedge_while_late(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask one more worker each time an answer is late. Return when there is an answer, or no worker to ask."""
        hedged_at = doubtful_hedge_at = -inf
        while self._state.may_hedge:
            newest = self._state.attempts[-1]
            doubtful = self._selector.became_suspect(newest.worker) or self._selector.became_critical(newest.worker)
            if doubtful:
                due = max(newest.began + MIN_HEDGE_DELAY, doubtful_hedge_at + HEDGE_RETRY_DELAY)
            else:
                due = max(newest.began, hedged_at) + self._hedge_delay
            due = max(due, anyio.current_time())
            await self._wait_for_wake(due)
            now = anyio.current_time()
            # If this process was held up, the answer may already be waiting to be read: give it as long again.
            if await self._done_by(now + (now - due) if now - due > TIMER_LATENESS else now):
                return
            if now >= due and self._state.attempts[-1] is newest:
                hedged_at = anyio.current_time()
                doubtful_hedge_at = hedged_at if doubtful else doubtful_hedge_at
                self._hedge(tasks)

    @property
    def _hedge_delay(self) -> float:
        """Seconds until an answer is late; infinite while too little is known about requests of this kind."""
        delay = self._latency.hedge_delay
        return inf if delay is None else delay

    def wake(self) -> None:
        """Reconsider the hedging timer: the topology has changed, or the request is done."""
        self._woken.set()

    async def _wait_for_wake(self, deadline: float) -> None:
        self._woken = anyio.Event()
        if not self._done.is_set():
            with anyio.CancelScope(deadline=deadline):
                await self._woken.wait()

    async def _done_by(self, deadline: float) -> bool:
        if not self._done.is_set() and deadline > anyio.current_time():
            with anyio.CancelScope(deadline=deadline):
                await self._done.wait()
        return self._done.is_set()

    def _hedge(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask the next worker too, if there is a routable one and the budget allows it."""
        now = anyio.current_time()
        running = (attempt for attempt in self._state.attempts if attempt.running)
        unresponsive = all(self._selector.looks_unresponsive(attempt.worker, attempt.began) for attempt in running)
        budget = self._budgets.unresponsive_hedges if unresponsive else self._budgets.slow_hedges
        if not budget.try_withdraw(now):
            return
        worker = self._selector.pick(self._key, self._state.tried, now, last_resort=False)
        if worker is None:
            self._state.hedging_exhausted = True
            budget.refund(1)
        else:
            self._start(worker, tasks)

    # Attempts.

    def _try_next(self, tasks: anyio.abc.TaskGroup) -> None:
        now = anyio.current_time()
        if not self._start_next(tasks, now) and not self._state.running:
            self._finish_without_worker(now)

    def _retry(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ask the next worker after a retryable answer, if there is one and the budget allows it."""
        now, budget = anyio.current_time(), self._budgets.retries
        if budget.try_withdraw(now):
            if self._start_next(tasks, now):
                self._paid_retries += 1
                return
            budget.refund(1)
        if not self._state.running:
            self._finish_without_worker(now)

    def _start_next(self, tasks: anyio.abc.TaskGroup, now: float) -> bool:
        """Ask the next worker. Returns False if there is none."""
        worker = self._selector.pick(self._key, self._state.tried, now)
        if worker is not None:
            self._start(worker, tasks)
        return worker is not None

    def _start(self, worker: Worker, tasks: anyio.abc.TaskGroup) -> None:
        attempt = self._state.begin_attempt(worker, anyio.current_time())
        if isinstance(begun := self._request.extensions.get(ATTEMPTS), list):
            begun.append(attempt)
        try:
            # Registered here and not in the task: the next pick, for any request, must already count this one.
            in_flight = self._upstreams.begin(worker)
        except httpx2.UnsupportedProtocol as error:
            self._attempt_failed(attempt, failure_of(error, sent=False) or error, tasks)
        else:
            tasks.start_soon(self._attempt, attempt, in_flight, tasks)

    async def _attempt(self, attempt: Attempt, in_flight: InFlightRequest, tasks: anyio.abc.TaskGroup) -> None:
        progress = SendProgress(self._request)
        accepted = False
        try:
            response = await in_flight.run(lambda: in_flight.upstream.send(self._request, self._body, progress))
            accepted = await self._accept(attempt, in_flight, response, tasks)
            if not accepted:
                await _close_response(response)
        except WorkerLost as lost:
            self._attempt_failed(attempt, Failure(lost.reason, sent=progress.sent, cause=lost), tasks)
        except Exception as error:
            self._attempt_failed(attempt, failure_of(error, sent=progress.sent) or error, tasks)
        finally:
            if not accepted:
                in_flight.close()

    # Outcomes.

    async def _accept(
        self, attempt: Attempt, in_flight: InFlightRequest, response: httpx2.Response, tasks: anyio.abc.TaskGroup
    ) -> bool:
        """Take this answer, or keep it as the fallback. Returns False if another attempt was answered first."""
        if self._done.is_set():
            return False
        now = anyio.current_time()
        response_class = classify_response(response.status_code, response.headers.get("retry-after", ""))
        self._upstreams.record_answer(attempt, response_class, now)
        response = self._for_caller(response, attempt, in_flight)
        if not self._state.is_retryable(response_class):
            self._win(attempt, response_class, response, now)
            return True
        replaced, self._fallback = self._fallback, response
        self._state.record_retryable_answer(attempt, response.status_code)
        self._retry(tasks)
        if replaced is not None:
            await _close_response(replaced)
        return True

    def _win(self, attempt: Attempt, response_class: ResponseClass, response: httpx2.Response, now: float) -> None:
        if response_class.success:
            self._latency.record(now - attempt.began)
        if not response_class.worker_failed:
            self._budgets.record_success(now, self._paid_retries)
        for overtaken in self._state.finish(attempt):
            self._selector.record_no_answer(overtaken.worker, overtaken.began, now)
        self._response = response
        self._finish()

    def _for_caller(self, response: httpx2.Response, attempt: Attempt, in_flight: InFlightRequest) -> httpx2.Response:
        """The response that the caller gets. A whole body ends the request; a streamed one keeps it in flight."""
        stream, success = response.stream, response.status_code < 500
        if isinstance(stream, httpx2.ByteStream) or not isinstance(stream, httpx2.AsyncByteStream):
            in_flight.finished = success
            in_flight.close()
        else:
            stream = StreamedBody(stream, in_flight, self._selector, success=success)
        extensions = {**response.extensions, "rumormill_worker": attempt.worker}
        return httpx2.Response(response.status_code, headers=response.headers, stream=stream, extensions=extensions)

    def _attempt_failed(self, attempt: Attempt, failure: Failure | Exception, tasks: anyio.abc.TaskGroup) -> None:
        if self._done.is_set():
            return
        if isinstance(failure, Exception):
            self._finish_with_error(failure)
            return
        now = anyio.current_time()
        if failure.caller_timeout:
            self._selector.record_no_answer(attempt.worker, attempt.began, now)
        elif not failure.local_error:
            self._selector.record_unreachable(attempt.worker, attempt.began, now)
        match self._state.record_failure(attempt, failure):
            case RetryDecision.TRY_NEXT:
                self._try_next(tasks)
            case RetryDecision.NOT_REPLAYABLE:
                self._finish_with_error(not_replayable(self._state, attempt, failure, self._selector.topology, now))
            case RetryDecision.RAISE:
                error = failure.cause or RuntimeError(failure.what)
                # For Figures, which counts every attempt.
                error.attempts = tuple(self._state.attempts)  # type: ignore[attr-defined]
                self._finish_with_error(error)
            case RetryDecision.AWAIT_RUNNING:
                pass

    def _finish_without_worker(self, now: float) -> None:
        """No worker is left, or the budget allows none: the caller gets the last real answer, or an error."""
        self._response = self._fallback
        if self._response is not None:
            self._finish()
        else:
            error = self._state.request_error or no_workers(self._state, self._selector.topology, now)
            self._finish_with_error(error)

    def _finish_with_error(self, error: Exception) -> None:
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._done.set()
        self.wake()


async def _close_response(response: httpx2.Response) -> None:
    with anyio.CancelScope(shield=True):
        await response.aclose()
