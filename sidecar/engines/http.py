"""Any HTTP server."""

from rumormill.sidecar.engines.profile import EngineProfile

HTTP = EngineProfile(
    name="http",
    title="any HTTP server",
    readiness_path="/health",
    drained="callers report no requests in flight.",
    lies=("a health path proves only what its author chose to check",),
)
