"""What the sidecar knows of each inference engine: one small file of data each.

A profile says how the engine is asked whether it is ready, where its counters are, which probe suits it, and what it is
known to say wrongly of itself. It may hold data only. To add an engine, add a file and its line in :data:`ENGINES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from rumormill.sidecar.engines.http import HTTP
from rumormill.sidecar.engines.kserve_v2 import KSERVE_V2
from rumormill.sidecar.engines.llama_cpp import LLAMA_CPP
from rumormill.sidecar.engines.ollama import OLLAMA
from rumormill.sidecar.engines.openai import OPENAI
from rumormill.sidecar.engines.profile import (
    Alternatives,
    CapacityPage,
    Counters,
    EngineProfile,
    MetricSeries,
    OllamaCounters,
    ProbeKind,
    PrometheusCounters,
)
from rumormill.sidecar.engines.sglang import SGLANG
from rumormill.sidecar.engines.tgi import TGI
from rumormill.sidecar.engines.triton import TRITON
from rumormill.sidecar.engines.vllm import VLLM

ENGINES: Final[Mapping[str, EngineProfile]] = MappingProxyType(
    {profile.name: profile for profile in (VLLM, SGLANG, TRITON, TGI, LLAMA_CPP, OLLAMA, OPENAI, KSERVE_V2, HTTP)}
)
"""The known engines, by the name that ``--engine`` takes."""

__all__ = [
    "ENGINES",
    "Alternatives",
    "CapacityPage",
    "Counters",
    "EngineProfile",
    "MetricSeries",
    "OllamaCounters",
    "ProbeKind",
    "PrometheusCounters",
]
