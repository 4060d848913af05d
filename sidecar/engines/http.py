"""Any HTTP server."""

from rumormill.sidecar.engines.profile import EngineProfile

HTTP = EngineProfile(
    name="http",
    title="any HTTP server",
    readiness_path="/health",
    drained="callers have nothing under way.",
    lies=("a health path says what its author thought of",),
)
