"""Ollama."""

from rumormill.sidecar.engines.profile import EngineProfile, OllamaCounters

OLLAMA = EngineProfile(
    name="ollama",
    title="Ollama",
    readiness_path="/api/version",
    counters=OllamaCounters(),
    # It unloads a model that nobody asks for. A probe by default would keep a model loaded forever.
    drained="callers report no requests in flight. SIGTERM closes at once: drain first.",
    lies=(
        "`/` and `/api/version` are 200 whatever the state of the models",
        "generation hangs while `/api/tags` answers (ollama#1863)",
        "the first request loads the model, which takes up to 5 min; beyond `OLLAMA_MAX_QUEUE` (512) it answers 503",
    ),
)
