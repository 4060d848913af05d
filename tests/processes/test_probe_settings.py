"""A probe in an agent: mistakes are refused at the start, and its key is shown nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import trio
from agents import Agent, rumormill
from limits import LIVENESS_LIMIT
from misbehaving_worker import Fault, MisbehavingWorker

KEY = "sk-hush-1234567890"
NEEDED = ("--name", "w1", "--cluster", "c", "--service", "s", "--worker", "http://127.0.0.1:9", "--insecure-plaintext")

PATHS = ("/metrics", "/v1/status", "/v1/events", "/v1/members", "/v1/workers", "/readyz", "/")
MISTAKES = (
    ('kind = "embeddings"\n[expect]\nlenght = 3\n', "line 3: unknown key 'lenght'", "did you mean 'length'?"),
    ('kind = "embeddings"\n[expect]\nlength = 3\ngolden = [1.0]\n', "line 4: golden has 1 numbers", "--record"),
    ('kind = "chat"\n[expect.schema]\ntypo = 1\n', "line 3: schema: 'typo' is not a keyword", "'type'"),
    ('kind = "chat"\napi-key-file = "none"\n', "line 2: api-key-file: token file", "write the key into"),
)


async def test_a_mistake_is_refused_with_the_file_the_line_and_what_to_write(tmp_path: Path) -> None:
    file = tmp_path / "probe.toml"
    for text, message, hint in MISTAKES:
        file.write_text(text)
        done = await rumormill("agent", *NEEDED, "--probe-file", str(file))
        assert done.returncode == 2
        assert f"{file}, {message}" in done.stderr
        assert hint in done.stderr
    done = await rumormill("agent", *NEEDED, "--probe", "embedings")
    assert done.returncode == 2
    assert "did you mean 'embeddings'?" in done.stderr


async def test_a_reload_takes_another_probe_and_refuses_a_wrong_one(tmp_path: Path) -> None:
    file = tmp_path / "probe.toml"
    file.write_text('kind = "chat"\nmodel = "m"\nbudget = "30s"\ngive-up = "60s"\n')
    async with trio.open_nursery() as nursery:
        worker = await MisbehavingWorker.start(nursery)
        agent = await Agent.start(nursery, "w1", worker.url, "--probe-file", str(file))
        await agent.logged("worker", readiness="passing")
        good = file.read_text()
        file.write_text(good + "modle = 1\n")
        assert f"{file}, line 5: unknown key 'modle'" in (await reloaded(agent))["trouble"]
        file.write_text(good + '[expect]\npattern = "never"\n')
        assert (await reloaded(agent))["changed"] == ["probe-file"]
        line = await agent.logged("worker", readiness="critical")
        assert "does not match the pattern 'never'" in line["why"]
        file.write_text(good)
        await reloaded(agent)
        await agent.logged("worker", after=agent.lines.index(line), readiness="passing")
        nursery.cancel_scope.cancel()


async def reloaded(agent: Agent) -> dict[str, Any]:
    after = len(agent.lines)
    await agent.ask("/v1/reload", "POST")
    return await agent.logged("reload", after=after)


async def test_an_engine_whose_probe_is_left_out_says_so() -> None:
    async with trio.open_nursery() as nursery:
        worker = await MisbehavingWorker.start(nursery)
        agent = await Agent.start(nursery, "w1", worker.url, "--engine", "triton")
        line = await agent.logged("probe")
        assert line["text"] == "the kserve probe of Triton needs --probe-file: the engine is not probed"
        nursery.cancel_scope.cancel()


async def test_the_key_of_a_probe_is_in_no_log_metric_answer_or_process_list(tmp_path: Path) -> None:
    """Though the worker repeats the key in its answer."""
    key, file = tmp_path / "engine.key", tmp_path / "probe.toml"
    key.write_text(KEY + "\n")
    key.chmod(0o600)
    file.write_text('kind = "chat"\nmodel = "m"\napi-key-file = "engine.key"\n')
    async with trio.open_nursery() as nursery:
        worker = await MisbehavingWorker.start(nursery)
        flags = ("--probe-file", str(file))
        agent = await Agent.start(nursery, "w1", worker.url, *flags)
        await agent.logged("worker", readiness="passing")
        worker.fault = Fault.ECHO
        line = await agent.logged("worker", readiness="critical")
        assert "it answered 401" in line["why"]
        assert "[secret]" in line["why"]
        assert any(KEY.encode() in request for request in worker.requests), "the worker has got it"
        shown = [str(agent.lines), str(agent.other)]
        async with httpx2.AsyncClient(base_url=agent.http, timeout=LIVENESS_LIMIT, trust_env=False) as http:
            shown += [(await http.get(path)).text for path in PATHS]
        process = Path(f"/proc/{agent.process.pid}")
        shown += [(process / name).read_text(errors="replace") for name in ("cmdline", "environ")]
        assert not [text for text in shown if KEY in text]
        nursery.cancel_scope.cancel()
