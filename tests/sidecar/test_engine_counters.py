"""Each engine's figures are read from pages as the engine writes them, and no page can harm the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.sidecar.counters import BadCounters, CounterReading
from rumormill.sidecar.counters.ollama_models import read_ollama_untrusted
from rumormill.sidecar.counters.prometheus_page import MAX_LINES, read_prometheus_untrusted
from rumormill.sidecar.engines import ENGINES, PrometheusCounters
from rumormill.sidecar.worker_load import WorkerLoad


def counters_of(engine: str) -> PrometheusCounters:
    counters = ENGINES[engine].counters
    assert isinstance(counters, PrometheusCounters)
    return counters


def read(engine: str, page: str) -> CounterReading:
    return read_prometheus_untrusted(page.encode(), counters_of(engine))


VLLM_PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 4.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 100.0
vllm:iteration_tokens_total_count{engine="1",model_name="m"} 11.0
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 5000.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 90000.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
"""


def test_the_series_of_several_engines_are_summed_and_their_cache_is_the_mean() -> None:
    found = read("vllm", VLLM_PAGE)
    assert found == CounterReading(running=7, waiting=1, cache_use=0.5, progress=111.0)
    assert found.at_work == 8
    assert found.worker_load(256, 12.5) == WorkerLoad(7, 1, 0.5, 111.0, 256, 12.5)


def test_an_old_name_is_read_where_the_new_one_is_not() -> None:
    old = "vllm:gpu_cache_usage_perc 0.5\nvllm:generation_tokens_total 7\nvllm:num_requests_running 0\n"
    assert read("vllm", old) == CounterReading(running=0, waiting=None, cache_use=0.5, progress=7)
    both = old + "vllm:kv_cache_usage_perc 0.25\nvllm:iteration_tokens_total_count 3\n"
    assert read("vllm", both) == CounterReading(running=0, waiting=None, cache_use=0.25, progress=3)


def test_vllm_says_whether_it_sleeps() -> None:
    line = 'vllm:engine_sleep_state{engine="%d",sleep_state="%s"} %d\n'
    awake = line % (0, "awake", 1) + line % (0, "weights_offloaded", 0)
    asleep = line % (0, "awake", 0) + line % (0, "weights_offloaded", 1)
    assert not read("vllm", awake).asleep
    assert read("vllm", asleep).asleep
    assert not read("vllm", asleep + line % (1, "awake", 1)).asleep, "another of its engines is awake"
    assert not read("vllm", VLLM_PAGE).asleep, "one of another version does not say"


def test_a_line_may_have_a_timestamp_and_other_spaces() -> None:
    page = (
        "llamacpp:requests_processing\t1\nllamacpp:requests_deferred  3  \nllamacpp:n_decode_total 125 1700000000000\n"
    )
    for _ in range(2):  # the second time, the series are remembered
        assert read("llama.cpp", page) == CounterReading(1, 3, None, progress=125)


def test_labels_choose_the_lines_of_triton() -> None:
    page = """\
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 5
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 6239
nv_trt_llm_general_metrics{general_type="iteration_counter",model="tensorrt_llm",version="1"} 80
nv_trt_llm_general_metrics{general_type="timestamp",model="tensorrt_llm",version="1"} 1700074049
nv_inference_request_success{model="tensorrt_llm",version="1"} 20
nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 9
"""
    assert read("triton", page) == CounterReading(running=5, waiting=2, cache_use=0.4, capacity=512, progress=100)
    plain = 'nv_inference_request_success{model="a"} 3\nnv_inference_pending_request_count{model="a"} 4\n'
    found = read("triton", plain)
    assert found == CounterReading(running=None, waiting=4, cache_use=None, progress=3)
    assert found.worker_load(None, 0.0) is None, "what it works on is not said"


@pytest.mark.parametrize(
    ("engine", "page", "found"),
    [
        (
            "sglang",
            (
                'sglang:num_running_reqs{model_name="m"} 2\nsglang:num_queue_reqs{model_name="m"} 1\n'
                'sglang:token_usage{model_name="m"} 0.28\nsglang:prompt_tokens_total{model_name="m"} 8e6\n'
                'sglang:generation_tokens_total{model_name="m"} 7e6\n'
            ),
            CounterReading(2, 1, 0.28, progress=15e6),
        ),
        (
            "tgi",
            (
                'tgi_batch_current_size 6\ntgi_queue_size 4\ntgi_batch_inference_count{method="decode"} 90\n'
                'tgi_batch_inference_count{method="prefill"} 10\n'
            ),
            CounterReading(6, 4, None, progress=100),
        ),
        (
            "llama.cpp",
            "llamacpp:requests_processing 1\nllamacpp:requests_deferred 3\nllamacpp:n_decode_total 125\n",
            CounterReading(1, 3, None, progress=125),
        ),
    ],
)
def test_the_pages_of_other_engines(engine: str, page: str, found: CounterReading) -> None:
    assert read(engine, page) == found


def test_ollama_says_only_that_something_ended() -> None:
    page = b'{"models":[{"name":"m","size":5,"expires_at":"2024-06-04T14:38:31.83753-07:00","size_vram":5}]}'
    found = read_ollama_untrusted(page)
    assert (found.running, found.waiting, found.at_work) == (None, None, None)
    assert found.progress == pytest.approx(1717537111.83753)
    for idle in (b'{"models":null}', b'{"models":[]}'):
        assert read_ollama_untrusted(idle).progress == 0


def test_a_page_without_the_series_says_nothing() -> None:
    for page in ("", "up 1\n", "vllm:num_requests_running_and_more 7\n", "<html>"):
        assert read("vllm", page) == CounterReading()


@pytest.mark.parametrize(
    "page",
    [
        "vllm:num_requests_running lots\n",
        "vllm:num_requests_running NaN\n",
        "vllm:num_requests_running +Inf\n",
        "vllm:num_requests_running 1e300\n",
        'vllm:num_requests_running{model_name="m" 3\n',
        "vllm:num_requests_running 1\n" * (MAX_LINES + 1),
    ],
)
def test_nonsense_is_refused_with_a_reason(page: str) -> None:
    with pytest.raises(BadCounters, match=r"counters|is not a number"):
        read("vllm", page)


EARLY = b'{"models":[{"expires_at":"0001-01-01T00:00:00"}]}'


def test_nonsense_from_ollama_is_refused() -> None:
    for page in (b"", b"[]", b"{}", b'{"models":7}', b'{"models":[{"expires_at":"soon"}]}', b"\xff", EARLY):
        with pytest.raises(BadCounters):
            read_ollama_untrusted(page)


@given(st.binary(max_size=200), st.sampled_from(["vllm", "triton", "tgi"]), st.booleans())
def test_no_bytes_do_more_than_be_refused(noise: bytes, engine: str, begun: bool) -> None:
    name = counters_of(engine).running[0][0].name.encode()
    page = name + b"{" + noise if begun else noise
    try:
        found = read_prometheus_untrusted(page, counters_of(engine))
    except BadCounters:
        return
    assert found.running is None or found.running >= 0


@given(st.binary(max_size=200))
def test_no_bytes_do_more_to_ollamas_reader(noise: bytes) -> None:
    for page in (noise, b'{"models":[' + noise + b"]}"):
        try:
            read_ollama_untrusted(page)
        except BadCounters:
            continue


@pytest.mark.parametrize("profile", ENGINES.values(), ids=ENGINES.keys())
def test_a_profile_is_complete(profile) -> None:
    assert ENGINES[profile.name] is profile
    assert profile.readiness_path.startswith("/")
    assert profile.lies
    assert profile.drained.endswith(".")
    if profile.counters is not None:
        assert profile.counters.path.startswith("/")
        assert profile.counters.progress_unit


def test_sglangs_health_has_the_time_it_takes_by_design() -> None:
    assert ENGINES["sglang"].readiness_timeout > 3.0
