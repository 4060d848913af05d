"""``rumormill probe --record``: makes the vector of a healthy worker the golden vector of a probe file."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import msgspec
import trio

from rumormill.cli.exit_codes import BadRequest, Unreachable
from rumormill.sidecar import SettingsError
from rumormill.sidecar.file_writer import replace_file
from rumormill.sidecar.probes import ProbeOutcome
from rumormill.sidecar.probes.build import build_probe, default_spec
from rumormill.sidecar.probes.expectations import cosine_distance
from rumormill.sidecar.probes.golden import with_golden
from rumormill.sidecar.probes.probe_check import BadProbe
from rumormill.sidecar.probes.probe_file import read_probe_file
from rumormill.sidecar.probes.specification import EmbeddingsSpec, HttpBased, HttpSpec, KserveSpec, VectorExpect
from rumormill.sidecar.settings_values import Seconds, WorkerUrl

RUNS = 3
"""Answers that are compared: the noise of a healthy engine must be well below the tolerance."""
PATIENCE = Seconds(60)
"""The first answer of an engine may come late."""


def record_golden(worker: WorkerUrl, kind: str, path: Path | None) -> str:
    """Ask the worker, write the file, and say so. Raises :class:`CliError` and :class:`SettingsError`."""
    if path is None:
        raise BadRequest(
            "--record needs --probe-file", "name the file that gets the golden vector; it is made if needed"
        )
    text, spec = _file_and_spec(path, kind)
    bare = msgspec.structs.replace(spec.expect, golden=())
    asking = msgspec.structs.replace(spec, expect=bare, budget=PATIENCE, give_up=PATIENCE)
    outcomes = [trio.run(build_probe(asking, worker).run) for _ in range(RUNS)]
    vectors = [_vector(outcome) for outcome in outcomes]
    spread = max(cosine_distance(one, other) for one, other in combinations(vectors, 2))
    if not spread <= spec.expect.golden_tolerance / 2:
        raise BadRequest(
            f"{RUNS} answers to one input lie {spread:.4g} apart, too far for golden-tolerance "
            f"{spec.expect.golden_tolerance:g}",
            f"set golden-tolerance in {path} to at least {2 * spread:.2g}",
        )
    try:
        changed = with_golden(text, vectors[0])
        replace_file(path, changed.encode(), mode=0o644)
    except BadProbe as error:
        raise BadRequest(f"{path}: {error}", error.hint) from None
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}", "name a file that this user may write") from None
    read_probe_file(path)
    return (
        f"Wrote the vector of {worker}, {len(vectors[0])} numbers, to {path} as golden. {RUNS} answers lay "
        f"{spread:.2g} apart; up to {spec.expect.golden_tolerance:g} will pass."
    )


def _file_and_spec(path: Path, kind: str) -> tuple[str, EmbeddingsSpec | KserveSpec | HttpSpec]:
    if path.exists():
        spec = read_probe_file(path)
        text = path.read_text()
    else:
        spec = default_spec(kind or "embeddings")
        text = f'kind = "{spec.kind}"\n'
        if isinstance(spec, EmbeddingsSpec):
            text += f'input = "{spec.input}"\n'
    if not isinstance(spec, EmbeddingsSpec | KserveSpec | HttpSpec) or not _has_vector(spec):
        raise SettingsError(
            f"a {spec.kind} probe has no vector to record",
            "record embeddings, kserve, or http with expect.vector",
        )
    return text, spec


def _has_vector(spec: HttpBased) -> bool:
    expect = getattr(spec, "expect", None)
    return isinstance(expect, VectorExpect) and not (isinstance(spec, HttpSpec) and not spec.expect.vector)


def _vector(outcome: ProbeOutcome) -> tuple[float, ...]:
    if not outcome.verdict.answered:
        raise Unreachable(f"nothing was recorded. {outcome.reason}", "record from a worker that is well")
    return outcome.vector
