"""``rumormill canary`` and its neighbors, as processes, against real agents."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from pathlib import Path

import pytest
import trio
from agents import COMMAND, Agent, Worker, all_routable, environment, has, pool, rumormill
from limits import LIVENESS_LIMIT

from rumormill.client.observability.figures import Figures


async def canary(agent: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await rumormill("canary", *arguments, "--http", agent.http)


async def shares(agent: Agent) -> dict[str, float]:
    return {one["release"]: one["share"] for one in (await agent.ask("/v1/canary?service=embed"))["canary"]}


async def test_a_share_set_at_one_sidecar_is_shown_at_another_and_aborted_at_a_third() -> None:
    async with pool(3, "--release", "v1") as ([w1, w2, w3], _):
        done = await canary(w1, "set", "v2", "5%")
        assert done.returncode == 0, done.stderr
        assert "warning: no worker of 'embed' that takes work runs release 'v2'" in done.stderr
        await w2.until(lambda answer: bool(answer.policy.canary), "embed")
        shown = (await canary(w2, "show")).stdout
        assert "v2" in shown
        assert "5 %" in shown
        assert "The rest of embed: 95 %" in shown
        assert json.loads((await canary(w2, "show", "-o", "json")).stdout)["writer"] == "w1"
        assert (await canary(w2, "set", "v1", "1%")).returncode == 0
        await w3.until(lambda answer: len(answer.policy.canary) == 2, "embed")
        assert (await canary(w3, "abort")).returncode == 0
        assert await shares(w3) == {"v2": 0.0, "v1": 0.0}
        history = (await canary(w3, "history")).stdout
        assert history.index("v2 5 %") < history.index("v1 1 %") < history.index("v2 0 %")
        assert {"w1", "w2", "w3"} <= set(history.split())
        assert "by weight" in (await canary(w3, "clear")).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "v2", "105%"), "more than all keys"),
        (("set", "v2", "lots"), "is not a share"),
        (("set", "v2", "0.001%"), "use steps of 0.01%"),
        (("abort", "v7"), "'v7' is not a candidate"),
        (("run", "v2"), "no rollout of 'v2' is running"),
        (("run", "v2", "--steps", "5,2", "--hold", "1s"), "is not in rising order"),
        (("run", "v2", "--steps", "5,20"), "--hold is missing"),
        (("run", "v2", "--steps", "5", "--hold", "1"), "is not a duration"),
        (("run", "v2", "--steps", "5", "--hold", "1s", "--gate", "p98<5ms"), "is not a gate"),
        (("run", "v2", "--steps", "5", "--hold", "1s", "--gate", "p99<5%"), "wrong unit"),
        (("run", "v2", "--steps", "5", "--hold", "1s", "--gate", "p99<5ms"), "needs a source of values"),
    ],
)
async def test_what_cannot_be_is_said_in_a_line_with_a_hint(arguments: tuple[str, ...], message: str) -> None:
    async with pool(1) as ([w1], _):
        done = await canary(w1, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "hint: " in done.stderr
        assert "Traceback" not in done.stderr
        assert await shares(w1) == {}


async def test_shares_above_the_whole_are_refused_by_the_sidecar() -> None:
    async with pool(1) as ([w1], _):
        await canary(w1, "set", "v2", "60%")
        done = await canary(w1, "set", "v3", "50%")
        assert done.returncode == 4
        assert "add up to 110 %" in done.stderr
        assert "v2 60 %" in done.stderr


async def test_a_rollout_goes_up_its_steps_and_is_done(tmp_path: Path) -> None:
    figures = Figures("embed", path=tmp_path / "figures.json")
    for _ in range(100):
        figures.note("v2", 0.02, failed=False)
    figures.write()
    async with pool(2, "--release", "v2") as ([w1, w2], _):
        gates = ("--gate", "p99<300ms", "--gate", "errors<0.1%", "--gate", "requests>10", "--gate", "exec: true")
        done = await canary(
            w1, "run", "v2", "--steps", "5,25,100", "--hold", "200ms", "--every", "100ms",
            *gates, "--figures", str(tmp_path / "figures.json"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "v2 at 5 %, step 1 of 3" in done.stdout
        assert "p99 20 ms, errors 0 %, requests 100" in done.stdout
        assert "Done: v2 has 100 % of the keys." in done.stderr
        await w2.until(lambda answer: [c.share for c in answer.policy.canary] == [1.0], "embed")
        assert "Rollout of v2: done" in (await canary(w2, "show")).stdout


async def test_a_gate_that_cannot_be_read_is_refused_before_anything_is_shifted(tmp_path: Path) -> None:
    figures = Figures("embed", path=tmp_path / "figures.json")
    figures.write()
    gone = tmp_path / "figurs.json"
    async with pool(1, "--release", "v2") as ([w1], _):
        for arguments, message in (
            (("--gate", "p99<300ms", "--figures", str(gone)), f"the figures at {gone} cannot be read"),
            (
                ("--gate", "errors<1%", "--prometheus", "http://127.0.0.1:1"),
                "http://127.0.0.1:1 does not answer",
            ),
            (("--gate", "errors<1%", "--prometheus", f"{w1.http}/v9"), "does not answer like Prometheus"),
            (("--gate", "exec: true", "--gate", "exec: ./compare-answrs.sh"), "code 127"),
        ):
            refused = await canary(w1, "run", "v2", "--steps", "5,100", "--hold", "10s", *arguments)
            assert refused.returncode == 2, refused.stdout
            assert "cannot be read: " in refused.stderr
            assert message in refused.stderr
            assert "no share was changed" in refused.stderr
            assert await shares(w1) == {}
        process = await started(
            w1, *RUN, "--hold", "60s", "--gate", "requests>100", "--figures", str(tmp_path / "figures.json")
        )
        process.kill()  # figures without traffic yet are no reason to refuse: the first step brings it
        await process.wait()
        assert await shares(w1) == {"v2": 0.05}


async def test_a_failed_gate_puts_the_share_back_to_nothing(tmp_path: Path) -> None:
    figures = Figures("embed", path=tmp_path / "figures.json")
    for number in range(100):
        figures.note("v2", 0.02, failed=number == 0)
    figures.write()
    async with pool(1, "--release", "v2") as ([w1], _):
        done = await canary(
            w1, "run", "v2", "--steps", "5,100", "--hold", "10s", "--gate", "errors<0.1%",
            "--figures", str(tmp_path / "figures.json"),
        )  # fmt: skip
        assert done.returncode == 7
        assert "has failed, and its share is back at 0: errors<0.1%: errors 1 %" in done.stderr
        assert await shares(w1) == {"v2": 0.0}


async def test_a_command_that_fails_fails_the_gate() -> None:
    async with pool(1, "--release", "v2") as ([w1], _):
        check = 'exec: echo "$RUMORMILL_RELEASE answers worse" && test "$RUMORMILL_SHARE" = 0.05'
        done = await canary(w1, "run", "v2", "--steps", "5,25", "--hold", "100ms", "--every", "50ms", "--gate", check)
        assert done.returncode == 7
        assert "step 1 of 2, held: ok" in done.stdout
        assert "code 1, v2 answers worse" in done.stderr
        assert await shares(w1) == {"v2": 0.0}


async def started(agent: Agent, *arguments: str) -> trio.Process:
    """`canary run` as a process, once it has shown its first line."""
    command = [*COMMAND, "canary", "run", "v2", *arguments, "--http", agent.http]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(PYTHONUNBUFFERED="1")
    )
    assert process.stdout is not None
    with trio.fail_after(LIVENESS_LIMIT):
        assert b"v2 at 5 %" in await process.stdout.receive_some(4096)
    return process


RUN = ("--steps", "5,100", "--every", "100ms")


async def test_a_rollout_survives_its_own_death_and_goes_on_at_another_sidecar() -> None:
    async with pool(2, "--release", "v2") as ([w1, w2], _):
        process = await started(w1, *RUN, "--hold", "2s")
        process.kill()
        await process.wait()
        assert await shares(w1) == {"v2": 0.05}
        await w2.until(lambda answer: bool(answer.policy.canary), "embed")
        done = await canary(w2, "run", "v2", "--every", "100ms")
        assert done.returncode == 0, done.stderr
        assert "Continuing the rollout of v2" in done.stderr
        assert "step 1 of 2" in done.stdout
        assert await shares(w2) == {"v2": 1.0}


async def test_ctrl_c_leaves_the_share_and_says_how_to_go_on() -> None:
    async with pool(1, "--release", "v2") as ([w1], _):
        process = await started(w1, *RUN, "--hold", "60s")
        process.send_signal(signal.SIGINT)
        with trio.fail_after(LIVENESS_LIMIT):
            assert await process.wait() == 130
        assert process.stderr is not None
        said = (await process.stderr.receive_some(4096)).decode()
        assert "rumormill canary run v2" in said
        assert "rumormill canary abort v2" in said
        assert await shares(w1) == {"v2": 0.05}
        other = await canary(w1, "run", "v3", *RUN, "--hold", "1s")
        assert other.returncode == 2
        assert "a rollout of 'v2' is running" in other.stderr
        other = await canary(w1, "run", "v2", *RUN, "--hold", "7s")
        assert other.returncode == 2
        assert "with other steps, hold time or gates" in other.stderr


async def test_an_operator_who_aborts_elsewhere_ends_the_guide() -> None:
    async with pool(2, "--release", "v2") as ([w1, w2], _):
        process = await started(w1, *RUN, "--hold", "60s")
        await w2.until(lambda answer: bool(answer.policy.canary), "embed")
        assert (await canary(w2, "abort")).returncode == 0
        with trio.fail_after(LIVENESS_LIMIT):
            assert await process.wait() == 8
        assert await shares(w2) == {"v2": 0.0}


async def test_maintenance_at_one_sidecar_drains_another_and_outlives_its_restart() -> None:
    async with pool(2) as ([w1, w2], _):
        done = await rumormill("maintenance", "add", "w2", "--http", w1.http)
        assert "Workers of embed in maintenance: w2" in done.stdout
        await w1.until(has("w2", readiness="draining"))
        assert "maintenance" in (await w2.ask("/readyz"))["why"]
        await rumormill("maintenance", "remove", "w2", "--http", w2.http)
        await w1.until(all_routable("w1", "w2"))
        assert "none" in (await rumormill("maintenance", "show", "--http", w1.http)).stdout


async def test_the_preferred_zone() -> None:
    async with pool(1, "--zone", "a") as ([w1], _):
        done = await rumormill("zone", "prefer", "b", "--http", w1.http)
        assert "Preferred zone of embed: b" in done.stdout
        assert "no worker of 'embed' is in zone 'b'" in done.stderr
        assert (await w1.until(lambda answer: answer.policy.zone == "b", "embed")).policy.zone == "b"


async def test_a_lookup_explains_itself_and_knows_services_that_are_not() -> None:
    async with pool(2, "--release", "v1") as ([w1, _], _worker):
        done = await rumormill("lookup", "user-42", "--explain", "--http", w1.http)
        assert done.returncode == 0, done.stderr
        assert "no release has a share of its own" in done.stdout
        assert "no zone is preferred" in done.stdout
        assert "1. on the ring" in done.stdout
        as_json = await rumormill("lookup", "user-42", "--explain", "--zone", "a", "-o", "json", "--http", w1.http)
        assert json.loads(as_json.stdout)["zone"] == "a"
        for how in ((), ("--explain",)):
            done = await rumormill("lookup", "user-42", *how, "--service", "nosuch", "--http", w1.http)
            assert done.returncode == 4
            assert "there is no service 'nosuch' here" in done.stderr
            assert "there are embed" in done.stderr


async def test_a_pool_with_a_policy_key_is_steered_only_where_its_private_half_is(tmp_path: Path) -> None:
    key = tmp_path / "policy.key"
    assert (await rumormill("keys", "policy", "--out", str(key))).returncode == 0
    modes = [stat.S_IMODE(Path(path).stat().st_mode) for path in (key, f"{key}.pub")]
    assert modes == [0o600, 0o644]
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, "--policy-key", str(key))
        w2 = await Agent.start(nursery, "w2", worker, "--policy-key", f"{key}.pub", "--join", w1.gossip)
        w3 = await Agent.start(nursery, "w3", worker, "--join", w1.gossip)
        for agent in (w1, w2, w3):
            await agent.until(all_routable("w1", "w2", "w3"))
        refused = await canary(w2, "set", "v2", "5%")
        assert refused.returncode == 4
        assert "private key" in refused.stderr
        assert (await canary(w3, "set", "v9", "50%")).returncode == 0  # believes itself, and nobody else does
        assert (await canary(w1, "set", "v2", "5%", "--service", "other")).returncode == 0
        await w2.until(lambda answer: bool(answer.policy.canary), "other")
        assert await shares(w2) == {}
        nursery.cancel_scope.cancel()


async def test_a_wrong_policy_key_is_one_clear_line(tmp_path: Path) -> None:
    key = tmp_path / "policy.key"
    key.write_text("ed25519-private nonsense")
    key.chmod(0o600)
    done = await rumormill(
        "agent", "--name", "w", "--cluster", "c", "--service", "s", "--worker", "http://127.0.0.1:1",
        "--insecure-plaintext", "--policy-key", str(key),
    )  # fmt: skip
    assert done.returncode == 2
    assert "must hold one line" in done.stderr
    assert "Traceback" not in done.stderr
