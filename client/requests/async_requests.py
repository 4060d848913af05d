"""Makes the attempts of an asynchronous pool's requests, the first in its caller's task, hedges in the pool's tasks."""

from __future__ import annotations

import contextvars
from functools import partial

import anyio
import anyio.abc
import httpx2

from rumormill.client.connections.async_upstream import AsyncUpstream
from rumormill.client.connections.in_flight import InFlightRequest
from rumormill.client.connections.streamed_body import AsyncStep
from rumormill.client.requests.dispatch import Dispatcher
from rumormill.client.requests.request_machine import RequestMachine
from rumormill.client.rules.messages import PoolRequest, WorkerAnswer
from rumormill.client.rules.replay import Replay


class AsyncRequests:
    """Sends requests, each in its caller's task."""

    def __init__(self, dispatcher: Dispatcher, tasks: anyio.abc.TaskGroup) -> None:
        self._dispatcher = dispatcher
        self._tasks = tasks

    async def send(self, request: PoolRequest, replay: Replay) -> WorkerAnswer:
        """The first good answer. Raises PoolError, and the caller's own errors as they are."""
        context = contextvars.copy_context()
        machine = self._dispatcher.begin(request, replay, partial(self._start_hedge, context))
        try:
            await self._drive(machine, machine.start())
            if not machine.done:
                await self._wait(machine)
        except BaseException:
            machine.abandon()
            await _close_unwanted(machine)
            raise
        await _close_unwanted(machine)
        return machine.result()

    async def _drive(self, machine: RequestMachine, flight: InFlightRequest | None) -> None:
        """Make this attempt, and those that follow from it."""
        while True:
            while flight is not None:
                flight = await self._attempt(machine, flight)
            pause = machine.take_pause()
            if pause is None:
                return
            await anyio.sleep(pause)
            flight = machine.resume()

    async def _attempt(self, machine: RequestMachine, flight: InFlightRequest) -> InFlightRequest | None:
        upstream = flight.upstream
        assert isinstance(upstream, AsyncUpstream)  # noqa: S101 - by the pool that made it
        try:
            with AsyncStep(flight):
                answer = await upstream.send(machine.request, flight)
        except Exception as error:
            return machine.on_error(flight, error)
        except BaseException:
            machine.on_cancelled(flight)
            raise
        following = machine.on_answer(flight, answer)
        await _close_unwanted(machine)
        return following

    async def _wait(self, machine: RequestMachine) -> None:
        """Wait for the attempts that run beside the caller's own."""
        done = anyio.Event()
        machine.call_when_done(done.set)
        await done.wait()

    def _start_hedge(self, context: contextvars.Context, machine: RequestMachine, flight: InFlightRequest) -> None:
        # In the caller's context, because its trace callback and its telemetry may need that.
        context.run(self._tasks.start_soon, self._run_hedge, machine, flight)

    async def _run_hedge(self, machine: RequestMachine, flight: InFlightRequest) -> None:
        try:
            await self._drive(machine, flight)
        except Exception as error:
            machine.abandon(error)
        except BaseException:
            machine.abandon(RuntimeError("this pool was closed while a request was in flight"))
            raise


async def _close_unwanted(machine: RequestMachine) -> None:
    for answer in machine.unwanted_answers():
        if isinstance(answer.body, httpx2.AsyncByteStream):
            with anyio.CancelScope(shield=True):
                await answer.body.aclose()
