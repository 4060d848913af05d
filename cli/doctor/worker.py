"""Does the worker answer what its sidecar asks?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem
from rumormill.discovery.schema.answers import describe_shared_worker
from rumormill.sidecar import AgentError
from rumormill.sidecar.probes import ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.build import build_probe
from rumormill.sidecar.probes.specification import HttpSpec
from rumormill.sidecar.reload import read_probe
from rumormill.sidecar.settings_values import NO_CHECK, Seconds

if TYPE_CHECKING:
    from rumormill.sidecar.probes import Probe


def check(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings
    if facts.status is not None and facts.status.shares_worker_with:
        sharing = [*facts.status.shares_worker_with, settings.name]
        yield problem(
            describe_shared_worker(sharing, settings.worker_url), "correct --worker of all but one, or stop them"
        )
    if settings.worker_check != NO_CHECK:
        patience = Seconds(settings.worker_check_timeout or 1.0)
        spec = HttpSpec(path=settings.worker_check or "/", budget=patience, give_up=patience)
        yield _judge("readiness", build_probe(spec, settings.worker), facts)
    try:
        probe = read_probe(settings)[1]
    except AgentError as error:
        yield problem(error.message, error.hint)
        return
    if probe is not None:
        yield _judge("probe", probe, facts)


def _judge(what: str, probe: Probe, facts: Facts) -> Finding:
    outcome = trio.run(probe.run)
    if outcome.verdict is ProbeVerdict.RIGHT:
        return ok(f"{what}: {probe.description} is answered as expected")
    said = f"{what}: {probe.description}: {outcome.reason}"
    return problem(said, _what_to_do(outcome, facts))


def _what_to_do(outcome: ProbeOutcome, facts: Facts) -> str:
    worker = facts.settings.worker
    if outcome.verdict is ProbeVerdict.WRONG and re.search(r"\b404\b", f"{outcome.answer} {outcome.reason}"):
        return "there is no such path: name the engine (--engine vllm), or its health path (--worker-check /path)"
    match outcome.verdict:
        case ProbeVerdict.SILENT:
            return f"start the worker, or correct --worker {worker}"
        case ProbeVerdict.TIMED_OUT | ProbeVerdict.SLOW:
            return "it may load a model or be overloaded: see its log; --worker-check-timeout allows it more time"
        case _:
            return f"see the worker's log; try it: rumormill probe --engine {facts.settings.engine} --worker {worker}"
