"""SGLang's server."""

from rumormill.sidecar.engines.profile import EngineProfile, ProbeKind, PrometheusCounters, series, summed

SGLANG = EngineProfile(
    name="sglang",
    title="SGLang",
    readiness_path="/health",
    # It generates a token, sleeps 1 s before it can answer, and takes up to 20 s under load. While the counters move,
    # its silence does not count; this is how long it may be silent where they are not read.
    readiness_timeout=5.0,
    busy_statuses=frozenset({503}),
    probe=ProbeKind.COMPLETIONS,
    counters=PrometheusCounters(
        running=series("sglang:num_running_reqs"),
        waiting=series("sglang:num_queue_reqs"),
        cache_use=series("sglang:token_usage"),
        progress=summed("sglang:generation_tokens_total", "sglang:prompt_tokens_total"),
        progress_unit="token was produced",
    ),
    drained="`sglang:num_running_reqs` and `sglang:num_queue_reqs` are 0. A client that disconnects aborts its stream.",
    lies=(
        "`/health` passed for an hour with a dead scheduler (sglang#6624)",
        "`/health` is 503 during a long prefill (sglang#22511), and takes more than 1 s by design",
        "it has counters only with `--enable-metrics`",
    ),
)
