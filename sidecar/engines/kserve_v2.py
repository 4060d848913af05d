"""Any server with KServe's Open Inference Protocol (V2): MLServer, OpenVINO Model Server and others."""

from rumormill.sidecar.engines.profile import EngineProfile, ProbeKind

KSERVE_V2 = EngineProfile(
    name="kserve-v2",
    title="any KServe V2 server",
    readiness_path="/v2/health/ready",
    probe=ProbeKind.KSERVE,
    drained="callers report no requests in flight.",
    lies=("`/v2/health/ready` says that models are loaded, not that they answer",),
)
