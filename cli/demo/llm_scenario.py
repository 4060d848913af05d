"""The phases of the demo with a real language model: as in :mod:`rumormill.cli.demo.scenario`, and a saturation.

A worker's death cuts the answers that it has begun. This is counted and shown, because no pool can hide it: a text that
a person has half read cannot be taken back. What the pool promises is that nothing else is cut, that no request fails,
and that a busy worker is not taken for a dead one.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import httpx2
import trio

from rumormill.cli.demo.pool_watch import PoolWatch
from rumormill.cli.demo.processes import LocalMember, LocalPoolSettings
from rumormill.cli.demo.request_log import RequestSummary
from rumormill.cli.demo.scenario import DemoScenario, Phase, PhasePlan
from rumormill.cli.demo.stream_caller import StreamCaller
from rumormill.cli.demo.verdict import OutcomePromise, Promise, ZeroPromise
from rumormill.discovery.schema.workers import WorkersAnswer

SLOTS: Final = 2
"""Answers that one worker computes at once."""
USERS: Final = 4
SATURATING_USERS: Final = 24
"""Four times what three workers compute at once."""
SATURATION_SECONDS: Final = 8.0
CUTTING: Final = ("kill", "freeze")
"""Phases in which a worker dies or stands still: answers that it has begun are cut."""
ENOUGH_ANSWERS: Final = 3
"""A phase lasts until as many were answered in it, so that its figures say something on a slow machine too."""
PATIENCE_SECONDS: Final = 60.0
SAMPLE_SECONDS: Final = 0.05


def llm_pool_settings() -> LocalPoolSettings:
    """Three llama.cpp servers. They are drained before their sidecars are stopped, so no sidecar waits."""
    server = [sys.executable, "-m", "rumormill.cli.demo.llama_server"]
    return LocalPoolSettings(
        service="chat",
        cluster="demo",
        worker_command=f"{shlex.join(server)} {{port}} --slots {SLOTS} --threads 1 --tokens 256",
        agent_flags=("--drain-time", "0s"),
    )


class LlmScenario(DemoScenario):
    """Three members with a real model. Set :attr:`caller` before :meth:`play`."""

    caller: StreamCaller

    @property
    def plans(self) -> Sequence[PhasePlan]:
        return (
            PhasePlan("calm", "calm", 4.0, self._calm),
            PhasePlan("kill", "kill -9 of w2 and its sidecar", 4.0, self._kill),
            PhasePlan("restart", "both start again, the model is loaded", 3.0, self._restart),
            PhasePlan("freeze", "SIGSTOP of w3 and its sidecar", 4.0, self._freeze),
            PhasePlan("thaw", "SIGCONT: both go on", 3.0, self._thaw),
            PhasePlan("saturation", f"{SATURATING_USERS} users, four times the capacity", 0.0, self._saturate),
            PhasePlan("drain", "w1 drains, then gets SIGTERM", 4.0, self._drain),
        )

    async def _after_play(self, phase: Phase) -> None:
        await self._wait_for(lambda: len(self.request_log.ended_since(phase.begun)) >= ENOUGH_ANSWERS)

    def _request_promises(self, phase: Phase, seen: RequestSummary) -> Sequence[Promise]:
        cuts = sum(at >= phase.begun for at in self.request_log.cuts)
        if phase.name in CUTTING:
            self._note(phase, f"{cuts} answers were cut after their first token; their callers asked again")
            return ()
        return (ZeroPromise("answers cut after their first token", cuts, seen.requests),)

    async def _kill(self, phase: Phase) -> None:
        await self._wait_for(lambda: self._answering("w2"))
        await super()._kill(phase)

    async def _freeze(self, phase: Phase) -> None:
        await self._wait_for(lambda: self._answering("w3"))
        await super()._freeze(phase)

    def _answering(self, name: str) -> bool:
        """Whether an answer of this worker has begun to arrive."""
        return any(worker == name for worker, _ in self.caller.streams.values())

    async def _saturate(self, phase: Phase) -> None:
        """More users than the workers can serve at once. None may be taken for dead."""
        self.caller.set_users(SATURATING_USERS)
        taken_out: set[str] = set()
        with trio.move_on_after(SATURATION_SECONDS * self.pace):
            while True:
                taken_out |= _taken_out(self.watch, self.pool.members)
                await trio.sleep(SAMPLE_SECONDS)
        self.caller.set_users(USERS)
        told = f"taken out: {', '.join(sorted(taken_out))}" if taken_out else "all three stay in every table"
        phase.promises.append(OutcomePromise("a busy worker is not taken for a dead one", not taken_out, told))

    async def _stop_work(self, member: LocalMember) -> None:
        async with httpx2.AsyncClient(verify=False, trust_env=False) as http:  # over loopback
            (await http.put(f"{member.url}/v1/drain")).raise_for_status()

    async def _after_drain(self, phase: Phase, member: LocalMember) -> None:
        """Wait until the engine says that it has finished, then stop the sidecar."""
        with trio.move_on_after(PATIENCE_SECONDS) as scope:
            while await _requests_in(member.worker_url):
                await trio.sleep(SAMPLE_SECONDS)
        self._note(phase, "w1 still has requests" if scope.cancelled_caught else "w1 has finished its requests")
        member.sidecar.signal(signal.SIGTERM)

    async def _wait_for(self, holds: Callable[[], bool]) -> None:
        with trio.move_on_after(PATIENCE_SECONDS):
            while not holds():
                await trio.sleep(SAMPLE_SECONDS)


def _taken_out(watch: PoolWatch, names: Iterable[str]) -> set[str]:
    """The members that some sidecar has evicted, or sends nobody to."""
    answers = watch.answers.values()
    return {name for name in names if not all(_has_work(answer, name) for answer in answers)}


def _has_work(answer: WorkersAnswer, name: str) -> bool:
    return any(worker.name == name and worker.routable for worker in answer.workers)


async def _requests_in(worker_url: str) -> float:
    """How many requests a llama.cpp server computes and holds back, from its metrics."""
    async with httpx2.AsyncClient(verify=False, trust_env=False, timeout=PATIENCE_SECONDS) as http:  # over loopback
        lines = (await http.get(f"{worker_url}/metrics")).text.splitlines()
    counts = ("llamacpp:requests_processing ", "llamacpp:requests_deferred ")
    return sum(float(line.split()[1]) for line in lines if line.startswith(counts))
