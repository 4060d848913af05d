"""``rumormill probe`` against a real server that goes wrong: what it says, its exit codes, and the golden vector."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from misbehaving_worker import VECTOR, Fault

from rumormill.cli.main import rumormill
from rumormill.sidecar.probes.golden import with_golden
from rumormill.sidecar.probes.probe_check import BadProbe
from rumormill.sidecar.probes.probe_file import parse_probe, read_probe_file
from rumormill.sidecar.probes.specification import EmbeddingsSpec, VectorExpect

WORKER = Path(__file__).parents[1] / "harness" / "misbehaving_worker.py"
PATIENT = 'budget = "30s"\ngive-up = "60s"\n'
"""A busy machine must not make a right answer a slow one."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen([sys.executable, str(WORKER)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def probe(url: str, *arguments: str, fault: Fault = Fault.NONE) -> Result:
    urllib.request.urlopen(urllib.request.Request(f"{url}/fault/{fault.name}", method="PUT")).close()
    return CliRunner().invoke(rumormill, ["probe", "--worker", url, *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "probe.toml"
    path.write_text(f'kind = "embeddings"\n{PATIENT}')
    return path


def test_it_says_what_was_asked_what_came_and_what_the_pool_would_be_told(url: str, file: Path) -> None:
    done = probe(url, "--probe-file", str(file), "--engine", "openai")
    assert done.exit_code == 0, done.output
    for words in (
        f"asked     GET {url}/v1/models",
        f"asked     POST {url}/v1/embeddings, the embedding of 'The quick brown fox",
        "came      a vector of 4 numbers, norm 1, after",
        "expected  a vector of finite numbers, not all zeros; all of it within 30s",
        "The pool would be told: passing",
    ):
        assert words in done.output


@pytest.mark.parametrize(
    ("page", "came", "verdict"),
    [
        (
            "vllm:num_requests_running 1\nvllm:num_requests_waiting 2\nvllm:generation_tokens_total 7\n",
            "running 1, waiting 2, progress 7",
            "known",
        ),
        ("other 1\n", "/metrics has no counter that shows progress", "not known: a sidecar judges the worker by"),
    ],
)
def test_the_counters_of_an_engine_are_shown_and_decide_nothing(
    url: str, file: Path, page: str, came: str, verdict: str
) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", page.encode(), method="PUT")).close()
    done = probe(url, "--engine", "vllm", "--probe-file", str(file), "-o", "json")
    assert done.exit_code == 0, done.output
    steps = json.loads(done.output)["steps"]
    assert [step["what"] for step in steps] == ["readiness", "counters", "probe"]
    assert steps[0]["came"] == "status 200, 2 bytes"
    assert came in steps[1]["came"]
    assert steps[1]["verdict"].startswith(verdict)


def test_an_engine_that_sleeps_would_be_told_as_starting_whatever_it_answers(url: str, file: Path) -> None:
    page = (
        'vllm:num_requests_running 0\nvllm:generation_tokens_total 7\nvllm:engine_sleep_state{sleep_state="awake"} 0\n'
    )
    urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", page.encode(), method="PUT")).close()
    done = probe(url, "--engine", "vllm", "--probe-file", str(file), fault=Fault.UNAVAILABLE)
    assert "The pool would be told: starting: its engine was put to sleep" in done.output


@pytest.mark.parametrize(
    ("fault", "code", "verdict", "reason", "told"),
    [
        (Fault.NAN, 10, "wrong", "number 1 of 4 is NaN", "critical, at once"),
        (Fault.OVERLOADED, 9, "slow", "it is overloaded", "warning if the next answer is late too"),
        (Fault.NO_ANSWER, 11, "silent", "closed without an answer", "critical at the third time in a row"),
        (Fault.HANGING, 12, "timed out", "no answer within", "nothing while the engine's counters move"),
    ],
)
def test_the_exit_code_and_the_json_say_it_to_a_script(
    url: str, file: Path, fault: Fault, code: int, verdict: str, reason: str, told: str
) -> None:
    if fault is Fault.HANGING:
        file.write_text('kind = "embeddings"\nmodel = "m"\nbudget = "50ms"\ngive-up = "100ms"\n')
    done = probe(url, "--probe-file", str(file), "-o", "json", fault=fault)
    assert done.exit_code == code, done.output
    report = json.loads(done.output)
    assert (report["verdict"], report["worker"]) == (verdict, url)
    assert reason in report["steps"][0]["reason"]
    assert told in report["pool_would_be_told"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing would be asked"),
        (("--probe", "chatt"), "did you mean 'chat'?"),
        (("--probe", "kserve"), "--probe kserve needs model and inputs"),
        (("--probe-file", "/no/such/file"), "cannot read /no/such/file"),
        (("--record",), "--record needs --probe-file"),
        (("--engine", "vlm"), "'vlm' is not one of"),
    ],
)
def test_wrong_flags_say_what_to_write(url: str, arguments: tuple[str, ...], message: str) -> None:
    done = probe(url, *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_a_golden_vector_is_recorded_and_then_guards(url: str, file: Path) -> None:
    file.write_text(f'# ours\nkind = "embeddings"\n{PATIENT}\n[expect] # what must hold\nnorm = 1.0\n')
    for _ in range(2):  # the second time replaces the vector
        done = probe(url, "--record", "--probe-file", str(file))
        assert done.exit_code == 0, done.output
        assert "4 numbers" in done.output
        spec = read_probe_file(file)
        assert isinstance(spec, EmbeddingsSpec)
        assert spec.expect == VectorExpect(norm=1.0, golden=VECTOR)
        assert file.read_text().startswith("# ours\n")
        assert "# what must hold\n" in file.read_text()
    assert probe(url, "--probe-file", str(file)).exit_code == 0
    done = probe(url, "--probe-file", str(file), fault=Fault.OTHER_VECTOR)
    assert done.exit_code == 10
    assert "cosine distance to the golden vector is 0.5200" in done.output


def test_recording_makes_the_file_but_not_from_a_sick_worker(url: str, tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    done = probe(url, "--record", "--probe-file", str(path), fault=Fault.NAN)
    assert done.exit_code == 3
    assert "nothing was recorded. POST /v1/embeddings: number 1 of 4 is NaN" in done.output
    assert not path.exists()
    assert probe(url, "--record", "--probe-file", str(path)).exit_code == 0
    spec = read_probe_file(path)
    assert isinstance(spec, EmbeddingsSpec)
    assert spec.expect.golden == VECTOR
    done = probe(url, "--record", "--probe", "chat", "--probe-file", str(tmp_path / "chat.toml"))
    assert done.exit_code == 2
    assert "a chat probe has no vector to record" in done.output


@pytest.mark.parametrize(
    "before",
    [
        'kind = "embeddings"\n',
        'kind = "embeddings"',
        'kind = "embeddings"\n[expect]',
        'kind = "embeddings"\n\n  [ expect ]  # here\nlength = 3\n[headers]\nX-A = "b"\n',
        'kind = "embeddings"\n[expect]\ngolden = [ 1,\n  2, # two\n 3]\nnorm = 1\n[headers]\nX-A = "b"\n',
    ],
)
@given(vector=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=20))
def test_a_golden_vector_changes_nothing_else(before: str, vector: list[float]) -> None:
    after = with_golden(before, vector)
    assert with_golden(after, vector) == after
    lines = [line for line in before.splitlines() if line.strip()]
    kept = [line for line in lines if "golden" not in line and not line.startswith(" ")]
    assert [line for line in after.splitlines() if line in kept] == kept


def test_a_golden_vector_is_not_put_where_it_would_change_the_rest() -> None:
    for text in ('kind = "embeddings"\nexpect = {norm = 1}\n', 'kind = "embeddings"\nexpect.golden = [1]\n'):
        parse_probe(text, Path())
        with pytest.raises(BadProbe, match="cannot be put in"):
            with_golden(text, [1.0, 2.0])
