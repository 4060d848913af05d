"""One request: which attempts it makes, and the one answer that its caller gets. No input or output happens here.

The caller's own task or thread makes the first attempt, and each one that follows a failure: the methods return the
attempt to make next. An attempt beside a running one (a hedge) begins when the pool's timer says so. The first answer
wins, and interrupts the other attempts.

Other modules decide: retries.py what a failure means, response_class.py and verdicts.py what an answer means,
worker_selector.py which worker is next, hedging.py when a hedge is due, and retry_budget.py how many requests may be
sent twice.

Every method takes the pool's lock, so that several threads may work on one request.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import httpx2

from rumormill.client.connections.in_flight import InFlightRequest, Overtaken, WorkerLost
from rumormill.client.errors import no_workers, not_replayable
from rumormill.client.requests.hedge_schedule import HedgeSchedule
from rumormill.client.requests.pool_state import PoolState
from rumormill.client.rules.deadline import RefusalBackoff, deadline_passed
from rumormill.client.rules.hedging import LatencyWindow
from rumormill.client.rules.messages import PoolRequest, WorkerAnswer
from rumormill.client.rules.response_class import ResponseClass, status_like
from rumormill.client.rules.retries import ATTEMPTS, Attempt, Failure, RequestState, RetryDecision, failure_of
from rumormill.client.rules.retry_budget import RetryBudget
from rumormill.client.rules.verdicts import VERDICT, judged
from rumormill.client.runtime.timers import TimerEntry
from rumormill.ring.worker import Worker

WORKER = "rumormill_worker"
"""An answer's extensions hold the worker that gave it under this name."""

StartHedge = Callable[["RequestMachine", InFlightRequest], object]
"""Makes this attempt beside the others, in a task or thread of its own."""


class RequestMachine:
    """One request, and the attempts at it."""

    def __init__(
        self,
        pool: PoolState,
        request: PoolRequest,
        state: RequestState,
        latency: LatencyWindow,
        schedule: HedgeSchedule | None,
        start_hedge: StartHedge,
    ) -> None:
        """Without `schedule`, nothing is sent to a second worker while the first one is being waited for."""
        self.request = request
        self.done = False
        self._pool = pool
        self._upstreams = pool.upstreams
        self._selector = pool.upstreams.selector
        self._lock = pool.lock
        self._state = state
        self._latency = latency
        self._start_hedge = start_hedge
        self._schedule = schedule
        self._telemetry = pool.telemetry
        self._telemetry_parent = pool.telemetry.begin_request() if pool.telemetry is not None else None
        self._timer: TimerEntry | None = None
        self._running: list[InFlightRequest] = []
        self._paid_retries = 0
        """Retries that were withdrawn from the budget."""
        self._fallback: WorkerAnswer | None = None
        """The last retryable answer. The caller gets it if no other worker does better."""
        self._answer: WorkerAnswer | None = None
        self._error: Exception | None = None
        self._unwanted: list[WorkerAnswer] = []
        self._on_done: Callable[[], object] | None = None
        self._backoff: RefusalBackoff | None = None
        self._pause: float | None = None

    def start(self) -> InFlightRequest | None:
        """Begin. Returns the first attempt, or None if there is no worker."""
        with self._lock:
            first = self._try_next(self._pool.clock())
            self.rearm()
            return first

    def take_pause(self) -> float | None:
        """Seconds that the caller of this sleeps before it calls :meth:`resume`. None if there is nothing to wait for.

        Whoever made the last attempt asks this.
        """
        pause, self._pause = self._pause, None
        return pause

    def resume(self) -> InFlightRequest | None:
        """Ask the workers again that have all refused. Returns the attempt to make next."""
        with self._lock:
            if self.done:
                return None
            self._state.tried.clear()
            return self._try_next(self._pool.clock())

    def result(self) -> WorkerAnswer:
        """The answer. Raises the error that the caller gets instead."""
        if self._answer is None:
            raise self._error or RuntimeError("a request ended without an outcome")
        self._answer.extensions[ATTEMPTS] = tuple(self._state.attempts)
        return self._answer

    def unwanted_answers(self) -> list[WorkerAnswer]:
        """Answers that nobody will read. Whoever gets them here closes them."""
        if not self._unwanted:
            return []
        with self._lock:
            unwanted, self._unwanted = self._unwanted, []
            return unwanted

    def call_when_done(self, on_done: Callable[[], object]) -> None:
        """Call this once the request is done, or now if it is."""
        with self._lock:
            if not self.done:
                self._on_done = on_done
                return
        on_done()

    def abandon(self, error: Exception | None = None) -> None:
        """Nobody waits any more, or this error ends the request. Nothing of it counts for or against a worker."""
        with self._lock:
            if not self.done:
                self._error = error
                self._finish()

    # The hedging timer.

    def rearm(self) -> None:
        """Reconsider when a hedge is due: the request has begun, or the topology has changed."""
        with self._lock:
            if self.done or self._schedule is None:
                return
            due = self._schedule.next(self._pool.clock())
            if due < inf and (self._timer is None or due < self._timer.due):
                self._stop_timer()
                self._timer = self._pool.timers.add(due, self)

    def handle_timer(self) -> None:
        with self._lock:
            self._timer = None
            if self.done or self._schedule is None:
                return
            now = self._pool.clock()
            hedge = self._hedge(self._schedule, now) if self._schedule.is_due(now) else None
            self.rearm()
        if hedge is not None:
            self._start_hedge(self, hedge)

    def _hedge(self, schedule: HedgeSchedule, now: float) -> InFlightRequest | None:
        """Ask the next worker too, if there is a routable one and the budget allows it."""
        budgets = self._pool.budgets
        budget = budgets.unresponsive_hedges if schedule.looks_unresponsive(now) else budgets.slow_hedges
        allowed = budget.try_withdraw(now)
        schedule.record_hedge(now, began=allowed)
        if not allowed:
            return None
        worker = self._selector.pick(self.request.key, self._state.tried, now, last_resort=False)
        if worker is not None:
            self._pool.counts.hedges += 1
            return self._begin(worker, now)
        self._state.hedging_exhausted = True
        budget.refund(1)
        return None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._pool.timers.discard(self._timer)
            self._timer = None

    # Attempts.

    def _try_next(self, now: float) -> InFlightRequest | None:
        """Ask the next worker. Without one, the request ends as soon as no attempt is running.

        The first worker is free, and so is the next after one that could not be reached. In an outage only the first.
        """
        if self._state.attempts and self._state.tried and self._selector.outage:
            return self._retry(now)
        worker = self._next_worker(now)
        if worker is not None:
            return self._begin(worker, now)
        if not self._state.running:
            self._finish_without_worker(now)
        return None

    def _retry(self, now: float) -> InFlightRequest | None:
        """Ask the next worker, if there is one and the budget allows it."""
        budget = self._retry_budget
        if budget.try_withdraw(now):
            worker = self._next_worker(now)
            if worker is not None:
                self._paid_retries += budget is self._pool.budgets.retries
                return self._begin(worker, now)
            budget.refund(1)
        if not self._state.running:
            self._finish_without_worker(now)
        return None

    @property
    def _retry_budget(self) -> RetryBudget:
        return self._pool.budgets.outage if self._selector.outage else self._pool.budgets.retries

    def _next_worker(self, now: float) -> Worker | None:
        """The next worker to ask, unless the deadline has passed."""
        return None if now >= self.request.deadline else self._selector.pick(self.request.key, self._state.tried, now)

    def _begin(self, worker: Worker, now: float) -> InFlightRequest | None:
        self._pool.counts.attempts += 1
        attempt = self._state.begin_attempt(worker, now)
        if isinstance(begun := self.request.extensions.get(ATTEMPTS), list):
            begun.append(attempt)
        try:
            flight = self._upstreams.begin(attempt)
        except httpx2.UnsupportedProtocol as error:
            return self._failed(attempt, Failure(str(error), sent=False, cause=error), now)
        self._running.append(flight)
        if self._telemetry is not None and self._telemetry_parent is not None:
            number = len(self._state.attempts) - 1
            flight.span = self._telemetry.begin_attempt(
                self._telemetry_parent, self.request, attempt, (flight.upstream.host, flight.upstream.port), number
            )
        return flight

    # Outcomes.

    def on_answer(self, flight: InFlightRequest, answer: WorkerAnswer) -> InFlightRequest | None:
        """A worker has answered. Returns the attempt to make next, if the answer is not good enough."""
        try:
            response_class = judged(answer, self._pool.classify)
        except BaseException as error:
            self._on_hook_error(flight, answer, error)
            return None
        with self._lock:
            self._running.remove(flight)
            verdict = answer.extensions.get(VERDICT)
            flight.success = status_like(answer.status, verdict) < 500
            if answer.whole:
                flight.finished = flight.success
                flight.close()
            if self.done:
                self._end_overtaken(flight)
                self._unwanted.append(answer)
                return None
            now, attempt = self._pool.clock(), flight.attempt
            if flight.span is not None:
                flight.span.answered(answer.status, verdict, now - attempt.began)
            self._upstreams.record_answer(attempt, response_class, now, self._latency.median)
            answer.extensions[WORKER] = attempt.worker
            if not self._state.is_retryable(response_class):
                self._win(attempt, response_class, answer, now)
                return None
            if self._fallback is not None:
                self._unwanted.append(self._fallback)
            self._fallback = answer
            self._state.record_retryable_answer(attempt, answer.status, verdict)
            return self._retry(now)

    def _on_hook_error(self, flight: InFlightRequest, answer: WorkerAnswer, error: BaseException) -> None:
        """The caller's hook has raised, which says nothing about the worker. The request ends with this error."""
        self.on_cancelled(flight)
        with self._lock:
            self._unwanted.append(answer)
        if not isinstance(error, Exception):
            raise error
        self.abandon(error)

    def on_error(self, flight: InFlightRequest, error: Exception) -> InFlightRequest | None:
        """An attempt has ended with this error. Returns the attempt to make next, if any."""
        with self._lock:
            self._running.remove(flight)
            flight.close()
            if self.done or isinstance(error, Overtaken):
                self._end_overtaken(flight)
                return None
            if flight.span is not None:
                flight.span.failed(type(error).__name__, self._pool.clock() - flight.attempt.began)
            if self._pool.closed:
                self.abandon(RuntimeError("this pool was closed while a request was in flight"))
                return None
            if isinstance(error, WorkerLost):
                failure: Failure | None = Failure(error.reason, sent=flight.sent, cause=error)
            else:
                failure = failure_of(error, sent=flight.sent)
            if failure is None:
                self._finish_with_error(error)
                return None
            return self._failed(flight.attempt, failure, self._pool.clock())

    def on_cancelled(self, flight: InFlightRequest) -> None:
        """An attempt was cancelled from outside, for a reason that is not the worker's."""
        with self._lock:
            self._running.remove(flight)
            flight.attempt.running = False
            flight.close()
            self._end_overtaken(flight)

    def _end_overtaken(self, flight: InFlightRequest) -> None:
        if flight.span is not None:
            flight.span.overtaken(self._pool.clock() - flight.attempt.began)

    def _failed(self, attempt: Attempt, failure: Failure, now: float) -> InFlightRequest | None:
        if failure.caller_timeout:
            self._selector.record_no_answer(attempt.worker, attempt.began, now)
        elif not failure.local_error:
            self._selector.record_unreachable(attempt.worker, attempt.began, now)
        match self._state.record_failure(attempt, failure):
            case RetryDecision.TRY_NEXT:
                return self._try_next(now)
            case RetryDecision.NOT_REPLAYABLE:
                self._finish_with_error(not_replayable(self._state, attempt, failure, self._selector.topology, now))
            case RetryDecision.RAISE:
                self._finish_with_error(self._with_attempts(failure.cause or RuntimeError(failure.what)))
            case RetryDecision.AWAIT_RUNNING:
                pass
        return None

    def _win(self, attempt: Attempt, response_class: ResponseClass, answer: WorkerAnswer, now: float) -> None:
        if response_class.success:
            self._latency.record(now - attempt.began)
        if not response_class.worker_failed:
            self._pool.budgets.record_success(now, self._paid_retries)
        self._pool.counts.hedges_won += attempt.hedge
        for overtaken in self._state.finish(attempt):
            self._pool.counts.overtaken_seconds += now - overtaken.began
            self._selector.record_no_answer(overtaken.worker, overtaken.began, now)
        self._answer = answer
        self._finish()

    def _finish_without_worker(self, now: float) -> None:
        """No worker is left, or budget or deadline allow none: the caller gets the last real answer, or an error.

        If all have refused and named a time that can be waited for, the request waits instead.
        """
        if self._may_wait(now):
            return
        self._answer, self._fallback = self._fallback, None
        if self._answer is not None:
            self._finish()
        elif now >= self.request.deadline:
            self._finish_with_error(self._with_attempts(deadline_passed()))
        else:
            error = self._state.request_error or no_workers(self._state, self._selector.topology, now)
            self._finish_with_error(error)

    def _may_wait(self, now: float) -> bool:
        """Whether the last refusal is worth waiting for."""
        answer, left = self._fallback, self.request.deadline - now
        if answer is None or self._state.one_shot:
            return False
        self._backoff = self._backoff or RefusalBackoff(self._selector.rng)
        pause = self._backoff.pause(answer.status, answer.retry_after, left)
        if pause is None or not self._retry_budget.try_withdraw(now):
            return False
        self._pause = pause
        self._paid_retries += 1
        return True

    def _with_attempts(self, error: Exception) -> Exception:
        # For Figures, which counts every attempt.
        error.attempts = tuple(self._state.attempts)  # type: ignore[attr-defined]
        return error

    def _finish_with_error(self, error: Exception) -> None:
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self.done = True
        self._pool.waiting.discard(self)
        self._stop_timer()
        if self._fallback is not None:
            self._unwanted.append(self._fallback)
            self._fallback = None
        for flight in self._running:
            flight.cancel()
        if self._on_done is not None:
            self._on_done()
