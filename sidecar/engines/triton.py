"""NVIDIA Triton, with TensorRT-LLM or any other backend."""

from rumormill.sidecar.engines.profile import (
    EngineProfile,
    MetricSeries,
    ProbeKind,
    PrometheusCounters,
    labelled,
    series,
)

TRITON = EngineProfile(
    name="triton",
    title="Triton",
    readiness_path="/v2/health/ready",
    probe=ProbeKind.KSERVE,
    counters=PrometheusCounters(
        port=8002,
        # Other backends than TensorRT-LLM say what waits, and not what runs.
        running=labelled("nv_trt_llm_request_metrics", request_type="scheduled"),
        waiting=labelled("nv_trt_llm_request_metrics", request_type="waiting")
        + series("nv_inference_pending_request_count"),
        cache_use=labelled("nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="fraction"),
        progress=(
            (
                MetricSeries("nv_trt_llm_general_metrics", (("general_type", "iteration_counter"),)),
                MetricSeries("nv_inference_request_success"),
            ),
        ),
        progress_unit="iteration ended",
        capacity=labelled("nv_trt_llm_request_metrics", request_type="max"),
    ),
    drained="`nv_inference_pending_request_count` is 0, and with TensorRT-LLM also the number of scheduled requests. "
    "On SIGTERM it waits 30 s, but unloads its models early: requests get 400 unknown model (triton#6939). "
    "Drain first.",
    lies=(
        "`/v2/health/ready` stays 200 with a dead Python stub (triton#8604)",
        "`/v2/health/ready` fails while a model is loaded explicitly (triton#7014)",
    ),
)
