"""Any other server with OpenAI's interface."""

from rumormill.sidecar.engines.profile import EngineProfile, ProbeKind

OPENAI = EngineProfile(
    name="openai",
    title="any OpenAI-compatible server",
    readiness_path="/v1/models",
    probe=ProbeKind.COMPLETIONS,
    drained="callers have nothing under way.",
    lies=("`/v1/models` lists what is configured; it says nothing of whether the model answers",),
)
