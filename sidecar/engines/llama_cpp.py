"""llama.cpp's server."""

from rumormill.sidecar.engines.profile import CapacityPage, EngineProfile, ProbeKind, PrometheusCounters, series

LLAMA_CPP = EngineProfile(
    name="llama.cpp",
    title="llama.cpp",
    # 503 "Loading model" until it is loaded.
    readiness_path="/health",
    probe=ProbeKind.COMPLETIONS,
    counters=PrometheusCounters(
        running=series("llamacpp:requests_processing"),
        waiting=series("llamacpp:requests_deferred"),
        cache_use=(),
        progress=series("llamacpp:n_decode_total"),
        progress_unit="token was produced",
    ),
    capacity_page=CapacityPage("/props", "total_slots"),
    drained="`llamacpp:requests_processing` and `llamacpp:requests_deferred` are 0. A client that disconnects may not "
    "end its request.",
    lies=(
        "`/health` answers while `/slots` and generation hang (llama.cpp#27388)",
        "it has counters only with `--metrics`; without the flag the page is 501",
    ),
)
