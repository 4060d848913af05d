"""Any other server with OpenAI's interface."""

from rumormill.sidecar.engines.profile import EngineProfile, ProbeKind

OPENAI = EngineProfile(
    name="openai",
    title="any OpenAI-compatible server",
    readiness_path="/v1/models",
    probe=ProbeKind.COMPLETIONS,
    drained="callers report no requests in flight.",
    lies=("`/v1/models` lists what is configured; it does not show whether the model answers",),
)
