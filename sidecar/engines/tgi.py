"""Hugging Face Text Generation Inference (in maintenance mode)."""

from rumormill.sidecar.engines.profile import EngineProfile, ProbeKind, PrometheusCounters, series

TGI = EngineProfile(
    name="tgi",
    title="Text Generation Inference",
    readiness_path="/health",
    probe=ProbeKind.CHAT,
    counters=PrometheusCounters(
        running=series("tgi_batch_current_size"),
        waiting=series("tgi_queue_size"),
        cache_use=(),
        # One for each prefill and each decoding step of a batch.
        progress=series("tgi_batch_inference_count", "tgi_request_success"),
        progress_unit="step of the batch ended",
    ),
    capacity=128,
    drained="`tgi_batch_current_size` and `tgi_queue_size` are 0. SIGTERM lets requests finish for 90 s.",
    lies=("once it is healthy, `/health` only tests an allocation on the device; it decodes nothing",),
)
