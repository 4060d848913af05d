"""Makes the attempts of a synchronous pool's requests: the first in the caller's thread, hedges in others.

Few requests are hedged, so a thread for each hedge costs less than one that waits for them. A thread that is blocked in
an attempt that is over is interrupted through its socket (sync_upstream.py).
"""

from __future__ import annotations

import contextvars
import threading
import time
from functools import partial

import httpx2

from rumormill.client.connections.in_flight import InFlightRequest
from rumormill.client.connections.sync_upstream import SyncUpstream
from rumormill.client.requests.dispatch import Dispatcher
from rumormill.client.requests.request_machine import RequestMachine
from rumormill.client.rules.messages import PoolRequest, WorkerAnswer
from rumormill.client.rules.replay import Replay


class SyncRequests:
    """Sends requests, each in its caller's thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def send(self, request: PoolRequest, replay: Replay) -> WorkerAnswer:
        """The first good answer. Raises PoolError, and the caller's own errors as they are."""
        context = contextvars.copy_context()
        machine = self._dispatcher.begin(request, replay, partial(self._start_hedge, context))
        try:
            self._drive(machine, machine.start())
            if not machine.done:
                self._wait(machine)
        except BaseException:
            machine.abandon()
            _close_unwanted(machine)
            raise
        _close_unwanted(machine)
        return machine.result()

    def _drive(self, machine: RequestMachine, flight: InFlightRequest | None) -> None:
        """Make this attempt, and those that follow from it."""
        while True:
            while flight is not None:
                flight = self._attempt(machine, flight)
            pause = machine.take_pause()
            if pause is None:
                return
            time.sleep(pause)
            flight = machine.resume()

    def _attempt(self, machine: RequestMachine, flight: InFlightRequest) -> InFlightRequest | None:
        upstream = flight.upstream
        assert isinstance(upstream, SyncUpstream)  # noqa: S101 - by the pool that made it
        try:
            answer = upstream.send(machine.request, flight)
        except Exception as error:
            return machine.on_error(flight, error)
        except BaseException:
            machine.on_cancelled(flight)
            raise
        following = machine.on_answer(flight, answer)
        _close_unwanted(machine)
        return following

    def _wait(self, machine: RequestMachine) -> None:
        """Wait for the attempts that run beside the caller's own."""
        done = threading.Event()
        machine.call_when_done(done.set)
        done.wait()

    def _start_hedge(self, context: contextvars.Context, machine: RequestMachine, flight: InFlightRequest) -> None:
        # In the caller's context, because its trace callback and its telemetry may need that.
        target = partial(context.run, self._run_hedge, machine, flight)
        try:
            threading.Thread(target=target, daemon=True, name="rumormill hedge").start()
        except RuntimeError:  # no more threads: the caller's own attempt goes on
            machine.on_cancelled(flight)

    def _run_hedge(self, machine: RequestMachine, flight: InFlightRequest) -> None:
        try:
            self._drive(machine, flight)
        except Exception as error:
            machine.abandon(error)


def _close_unwanted(machine: RequestMachine) -> None:
    for answer in machine.unwanted_answers():
        if isinstance(answer.body, httpx2.SyncByteStream):
            answer.body.close()
