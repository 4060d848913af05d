"""``rumormill doctor`` names the cause of each fault that is planted here, with real agents, files and networks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trustme
from agents import COMMAND, Agent, Worker, environment, has, rumormill
from limits import LIVENESS_LIMIT

from rumormill.gossip import KeyRing


class Diagnosis(NamedTuple):
    code: int
    rows: list[dict[str, str]]

    def of(self, check: str) -> list[str]:
        """What is wrong, by this check: what was found, and what to do."""
        return [
            f"{row['found']} -> {row['do']}" for row in self.rows if row["check"] == check and row["verdict"] in BAD
        ]

    def well(self, check: str) -> bool:
        return {row["verdict"] for row in self.rows if row["check"] == check} == {"ok"}


BAD = ("problem", "warning")


async def diagnose(*flags: str, before: Sequence[str] = ()) -> Diagnosis:
    with trio.fail_after(LIVENESS_LIMIT):
        done = await trio.run_process(
            [*before, *COMMAND, "doctor", "-o", "json", *flags],
            capture_stdout=True,
            check=False,
            env=environment(),
        )
    rows = json.loads(done.stdout)
    assert all(row["do"] for row in rows if row["verdict"] in BAD), "each fault comes with what to do"
    worst = {row["verdict"] for row in rows}
    assert done.returncode == (14 if "problem" in worst else 15 if "warning" in worst else 0)
    return Diagnosis(done.returncode, rows)


def key_file(folder: Path, name: str = "key") -> Path:
    path = folder / name
    path.write_text(KeyRing((name.encode().ljust(32, b"."),)).to_text())
    path.chmod(0o600)
    return path


def settings(folder: Path, *lines: str, **values: str) -> tuple[str, str]:
    """The flag for a file of settings of an agent that does not run."""
    given = {"name": "w9", "cluster": "tests", "service": "embed", "worker": "http://127.0.0.1:9"} | values
    given |= {"http": "127.0.0.1:9"}
    if "key_file" not in given:
        given["key_file"] = str(key_file(folder))
    text = [f'{key.replace("_", "-")} = "{value}"' for key, value in given.items()]
    path = folder / "agent.toml"
    path.write_text("\n".join([*text, *lines]) + "\n")
    return "--config", str(path)


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    with closing(socket.socket(socket.AF_INET, kind)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_healthy_member_is_well_and_a_newcomer_sees_that_its_seed_answers_without_joining(
    tmp_path: Path,
) -> None:
    sealed = ("--key-file", str(key_file(tmp_path)))
    async with trio.open_nursery() as nursery:
        one, two = await Worker.start(nursery), await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", one, *sealed)
        w2 = await Agent.start(nursery, "w2", two, "--join", w1.gossip, *sealed)
        await w2.until(has("w1", liveness="alive"))
        found = await diagnose("--http", w2.http, "--peer", w1.http)
        assert "problem" not in {row["verdict"] for row in found.rows}, found.rows
        for check in ("sidecar", "name", "connection", "seeds", "gossip address", "mtu", "period", "seal", "keys"):
            assert found.well(check), (check, found.rows)
        assert found.well("worker")
        assert found.well("clock")
        newcomer = settings(tmp_path, f'join = ["{w1.gossip}"]')
        found = await diagnose(*newcomer, "--peer", w1.http)
        assert found.well("seeds"), found.rows
        assert found.well("name")
        assert "no sidecar can be reached" in found.of("sidecar")[0]
        await trio.sleep(0.5)
        assert [row["name"] for row in (await w1.ask("/v1/members"))["members"]] == ["w1", "w2"]
        text = await rumormill("doctor", "--http", w2.http)
        assert "ok       seeds: " in text.stdout
        nursery.cancel_scope.cancel()


async def test_seeds_that_do_not_resolve_refuse_or_have_another_key(tmp_path: Path) -> None:
    port = free_port()
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        other = await Agent.start(nursery, "w1", worker, "--key-file", str(key_file(tmp_path, "another")))
        seeds = json.dumps(["no-such-host.invalid:7946", f"127.0.0.1:{port}", other.gossip])
        found = (await diagnose(*settings(tmp_path, f"join = {seeds}"))).of("seeds")
        assert "no-such-host.invalid:7946 does not resolve" in found[0]
        assert "nothing listens there" in found[1]
        assert f"{other.gossip} is unreachable" in found[2]
        assert "key" in found[2]
        nursery.cancel_scope.cancel()


async def test_a_loopback_address_and_a_seed_elsewhere(tmp_path: Path) -> None:
    found = await diagnose(*settings(tmp_path, 'join = ["10.77.1:7946"]'))  # the system's way to write 10.77.0.1
    assert "only this machine reaches, and the seed 10.77.1:7946 is at 10.77.0.1" in found.of("gossip address")[0]


async def test_a_narrow_path(tmp_path: Path) -> None:
    narrow = ("unshare", "--net", "sh", "-c", 'ip link set lo up mtu 1000 && exec "$@"', "sh")
    if subprocess.run([*narrow, "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not permitted here")
    found = await diagnose(*settings(tmp_path, 'join = ["127.0.0.1:7999"]'), before=narrow)
    assert "carries packets of 1000 bytes" in found.of("mtu")[0]


async def test_another_period_a_shared_worker_and_plaintext() -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker)
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip, "--period", "400ms")
        await w2.until(has("w1", liveness="alive"))
        found = await diagnose("--http", w2.http)
        assert "a period of 400 ms, and these have another: w1 (200 ms)" in found.of("period")[0]
        assert "name the same worker" in found.of("worker")[0]
        assert "gossip is plaintext" in found.of("seal")[0]
        nursery.cancel_scope.cancel()


async def test_a_name_that_is_taken(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker)
        found = await diagnose(*settings(tmp_path, name="w1"), "--peer", w1.http)
        assert f"the name w1 is taken: it is that of the member at {w1.gossip}" in found.of("name")[0]
        nursery.cancel_scope.cancel()


async def test_a_worker_without_the_health_path_and_one_that_does_not_run(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        worker.status = 404
        w1 = await Agent.start(nursery, "w1", worker)
        (found,) = (await diagnose("--http", w1.http)).of("worker")
        assert "404" in found
        assert "--worker-check" in found
        nursery.cancel_scope.cancel()
    port = free_port(socket.SOCK_STREAM)
    (found,) = (await diagnose(*settings(tmp_path, worker=f"http://127.0.0.1:{port}"))).of("worker")
    assert "nothing listens" in found
    assert "start the worker" in found


async def test_keys_that_are_old_or_open_to_others(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    os.utime(path, (time.time(), time.time() - 400 * 86400))
    assert "have not changed for 400 days" in (await diagnose(*settings(tmp_path, key_file=str(path)))).of("keys")[0]
    path.chmod(0o644)
    assert str(path) in (await diagnose(*settings(tmp_path, key_file=str(path)))).of("keys")[0]


@pytest.mark.parametrize(
    ("begin", "end", "said"), [(-400, -1, "has expired on"), (-1, 5, "expires on"), (2, 30, "is valid only from")]
)
async def test_a_certificate_out_of_its_time(tmp_path: Path, begin: int, end: int, said: str) -> None:
    now = datetime.now(UTC)
    days = {"not_before": now + timedelta(days=begin), "not_after": now + timedelta(days=end)}
    issued = trustme.CA().issue_cert("127.0.0.1", **days)
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    found = await diagnose(*settings(tmp_path, http_cert=str(certificate), http_key=str(key)))
    assert said in found.of("certificate")[0]


async def test_few_open_files_and_dropped_datagrams() -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, before=("prlimit", "--nofile=256:256"))
        assert "may have 256 open files" in (await diagnose("--http", w1.http)).of("open files")[0]
        w1.signal(signal.SIGSTOP)
        host, _, port = w1.gossip.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(5000):
                sock.sendto(bytes(1200), (host, int(port)))
        w1.signal(signal.SIGCONT)
        assert f"datagrams to port {port}" in (await diagnose("--http", w1.http)).of("receive buffer")[0]
        nursery.cancel_scope.cancel()


async def test_settings_that_no_agent_takes_and_nobody_to_ask(tmp_path: Path) -> None:
    found = await diagnose(*settings(tmp_path, 'wieght = "2"'))
    assert "wieght" in found.of("settings")[0]
    assert "weight" in found.of("settings")[0]
    nobody = await rumormill("doctor", "--http", f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}")
    assert nobody.returncode == 3
    assert "no sidecar can be reached" in nobody.stderr
