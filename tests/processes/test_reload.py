"""SIGHUP: what can change while an agent runs does, what cannot is named, and bad settings change nothing."""

from __future__ import annotations

import signal
import socket
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import trio
import trio.testing
from agents import Agent, Worker, has, rumormill
from certificates import Authority
from limits import LIVENESS_LIMIT

from rumormill.sidecar.tls import TlsFiles, read_certificate


async def reloaded(agent: Agent) -> dict[str, Any]:
    """What a SIGHUP amounts to, as the log says."""
    after = len(agent.lines)
    agent.signal(signal.SIGHUP)
    return await agent.logged("reload", after=after)


async def test_what_can_change_does_and_flags_go_on_winning(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('weight = 1.0\nzone = "a"\nrelease = "v1"\n')
    async with trio.open_nursery() as nursery:
        worker, other = await Worker.start(nursery), await Worker.start(nursery)
        agent = await Agent.start(nursery, "w1", worker, "--config", str(config), "--release", "typed")
        await agent.until(has("w1", weight=1.0, zone="a", release="typed", readiness="passing"))
        config.write_text('weight = 2.5\nzone = "b"\nrelease = "v2"\nworker-check = "/ready"\n[tag]\ngpu = "h100"\n')
        assert (await reloaded(agent))["changed"] == ["zone", "weight", "tag", "worker-check"]
        await agent.until(has("w1", weight=2.5, zone="b", release="typed", tags={"gpu": "h100"}))
        with trio.fail_after(LIVENESS_LIMIT):
            while "/ready" not in worker.paths:
                await trio.sleep(0.01)
        assert (await agent.ask("/v1/status"))["settings"]["weight"] == 2.5
        assert (await reloaded(agent))["changed"] == []
        assert other.asked == 0
        nursery.cancel_scope.cancel()


async def told(agent: Agent, trouble: str) -> dict[str, Any]:
    """The status that says this of its settings: an answer of a moment before may be given once more."""
    with trio.fail_after(LIVENESS_LIMIT):
        while True:
            status: dict[str, Any] = await agent.ask("/v1/status")
            if status["settings_trouble"] == trouble:
                return status


async def test_what_cannot_change_is_named_and_bad_settings_change_nothing(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("weight = 1.0\n")
    async with trio.open_nursery() as nursery:
        agent = await Agent.start(nursery, "w1", await Worker.start(nursery), "--config", str(config))
        config.write_text('weight = 3.0\nperiod = "300ms"\nsnapshot = "/tmp/elsewhere"\n')
        line = await reloaded(agent)
        assert line["level"] == "warning"
        assert line["changed"] == ["weight"]
        assert line["text"] == "needs a restart: period, snapshot"
        status = await told(agent, line["text"])
        assert status["settings"]["period"] == "200ms"
        for bad, words in (("weight = -4.0\n", "weight"), ("weigth = 1.0\n", "weigth"), ("[", "not TOML")):
            config.write_text(bad)
            line = await reloaded(agent)
            assert line["level"] == "error"
            assert words in line["trouble"]
            await told(agent, line["trouble"])
            await agent.until(has("w1", weight=3.0))
        config.write_text("weight = 3.0\n")
        assert (await reloaded(agent))["changed"] == []
        await told(agent, "")
        nursery.cancel_scope.cancel()


async def test_tokens_are_read_again_and_the_verb_is_the_same_as_the_signal(tmp_path: Path) -> None:
    token, config = tmp_path / "token", tmp_path / "agent.toml"
    token.write_text("first")
    token.chmod(0o600)
    config.write_text("weight = 1.0\n")
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        agent = await Agent.start(nursery, "w1", worker, "--http-token-file", str(token), "--config", str(config))

        async def status(shown: str) -> int:
            async with httpx2.AsyncClient(base_url=agent.http, timeout=LIVENESS_LIMIT, trust_env=False) as client:
                return (await client.get("/v1/status", headers={"Authorization": f"Bearer {shown}"})).status_code

        assert (await status("first"), await status("second")) == (200, 401)
        token.write_text("second")
        assert (await reloaded(agent))["changed"] == ["http-token-file"]
        assert (await status("first"), await status("second")) == (401, 200)
        token.write_text("two words")
        assert "must hold one word" in (await reloaded(agent))["trouble"]
        assert await status("second") == 200
        agent = await Agent.start(nursery, "w2", worker, "--config", str(config))
        config.write_text("weight = 7.0\n")
        done = await rumormill("reload", "--http", agent.http)
        assert done.returncode == 0
        await agent.until(has("w2", weight=7.0))
        nursery.cancel_scope.cancel()


async def test_a_key_file_that_somebody_edited_is_told(tmp_path: Path) -> None:
    key = tmp_path / "pool.key"
    await rumormill("keys", "generate", "--out", str(key))
    async with trio.open_nursery() as nursery:
        agent = await Agent.start(nursery, "w1", await Worker.start(nursery), "--key-file", str(key))
        assert (await reloaded(agent))["level"] == "info"
        key.unlink()
        await rumormill("keys", "generate", "--out", str(key))
        assert (await reloaded(agent))["text"].startswith("needs a restart: key-file")
        nursery.cancel_scope.cancel()


async def test_hangups_end_no_agent_at_no_time() -> None:
    async with trio.open_nursery() as nursery:
        agent = await Agent.start(nursery, "w1", await Worker.start(nursery), "--drain-time", "300ms")
        for _ in range(20):
            agent.signal(signal.SIGHUP)
        await agent.logged("reload")
        agent.signal(signal.SIGTERM)
        await agent.logged("draining")
        agent.signal(signal.SIGHUP)
        assert await agent.ended() == 0
        assert not agent.other
        nursery.cancel_scope.cancel()


def serial(port: int, authority: Authority) -> int:
    """Of the certificate shown at the port, asked from another thread than the one that answers."""
    context = ssl.create_default_context(cafile=authority.path)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=LIVENESS_LIMIT) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as stream,
    ):
        shown = stream.getpeercert()
    assert shown is not None
    return int(str(shown["serialNumber"]), 16)


async def test_a_renewed_certificate_is_shown_after_a_hangup_and_a_broken_one_never(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    async with trio.open_nursery() as nursery:
        flags = ["--http-cert", str(cert), "--http-key", str(key)]
        agent = await Agent.start(nursery, "w1", await Worker.start(nursery), *flags)
        port = int(agent.http.rpartition(":")[2])
        before = await trio.to_thread.run_sync(serial, port, authority)
        authority.issue()
        await reloaded(agent)
        after = await trio.to_thread.run_sync(serial, port, authority)
        assert after != before
        cert.write_text("no certificate")
        assert "do not match" in (await reloaded(agent))["trouble"]
        assert await trio.to_thread.run_sync(serial, port, authority) == after
        nursery.cancel_scope.cancel()


async def test_when_a_certificate_ends_is_in_status_metrics_and_log(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    ends = read_certificate(TlsFiles(cert, key, None)).not_after
    async with trio.open_nursery() as nursery:
        flags = ["--http-cert", str(cert), "--http-key", str(key)]
        agent = await Agent.start(nursery, "w1", await Worker.start(nursery), *flags)
        line = await agent.logged("certificate")
        assert datetime.fromisoformat(line["not_after"]).timestamp() == ends
        trust = ssl.create_default_context(cafile=authority.path)
        url = agent.http.replace("http:", "https:")
        async with httpx2.AsyncClient(base_url=url, verify=trust, timeout=LIVENESS_LIMIT, trust_env=False) as client:
            assert (await client.get("/v1/status")).json()["certificate_not_after"] == ends
            metrics = (await client.get("/metrics")).text
        shown = next(line for line in metrics.splitlines() if line.startswith("rumormill_certificate_not_after"))
        assert float(shown.split()[1]) == ends
        nursery.cancel_scope.cancel()
