"""vLLM's OpenAI-compatible server (V1 engine)."""

from rumormill.sidecar.engines.profile import EngineProfile, ProbeKind, PrometheusCounters, labelled, series

VLLM = EngineProfile(
    name="vllm",
    title="vLLM",
    # The port is bound, and refuses, until the model is loaded.
    readiness_path="/health",
    probe=ProbeKind.COMPLETIONS,
    counters=PrometheusCounters(
        running=series("vllm:num_requests_running"),
        waiting=series("vllm:num_requests_waiting"),
        cache_use=series("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        # Engine steps: they grow in a long prefill too, where no token comes out.
        progress=series("vllm:iteration_tokens_total_count", "vllm:generation_tokens_total"),
        progress_unit="token was produced",
        awake=labelled("vllm:engine_sleep_state", sleep_state="awake"),
    ),
    # The default of --max-num-seqs, which stands on no page.
    capacity=256,
    drained="`vllm:num_requests_running` and `vllm:num_requests_waiting` are 0. SIGTERM aborts requests in flight, "
    "unless the server was started with `--shutdown-timeout` (from 0.18): drain first.",
    lies=(
        "`/health` stays 200 while the engine hangs (vllm#39863, vllm#36451); it is 503 only after an EngineDeadError",
        "`/health` stays 200 while the scheduler admits no request (vllm#53130)",
        'NaN logits give "!" forever, with status 200 (vllm#22881)',
    ),
)
