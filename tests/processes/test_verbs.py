"""The verbs, as processes, against real agents: what they show, what they say when they cannot, their exit codes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import trio
from agents import COMMAND, Agent, Worker, all_routable, environment, has, pool, rumormill
from certificates import Authority
from limits import LIVENESS_LIMIT

GROUPS = ("canary", "maintenance", "zone", "keys")
VERBS = ("agent", "members", "workers", "lookup", "events", "status", "watch", "drain", "undrain", "leave", *GROUPS)
READERS = (("members",), ("workers",), ("lookup", "k"), ("events",), ("status",))


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_teaches_how_it_is_used(verb: str) -> None:
    done = await rumormill(verb, "--help")
    assert done.returncode == 0
    assert done.stdout.count("rumormill ") >= 1
    assert "Exit codes: 0 done" in done.stdout
    if verb not in ("agent", *GROUPS):
        assert "--http URL" in done.stdout


async def test_the_group_lists_the_verbs_and_its_version() -> None:
    done = await rumormill("--help")
    assert all(f"\n  {verb} " in done.stdout for verb in (*VERBS, "demo"))
    assert (await rumormill("--version")).stdout.startswith("rumormill 0.")


async def test_an_unknown_verb_is_answered_with_the_nearest() -> None:
    done = await rumormill("memebers")
    assert done.returncode == 2
    assert "there is no verb 'memebers'; did you mean 'members'?" in done.stderr
    assert "the verbs are agent, run, config, members" in (await rumormill("xyzzy")).stderr


async def test_readers_show_tables_in_a_pipe_without_color_or_cutting() -> None:
    zone = "a-zone-with-a-rather-long-name-that-would-not-fit-80-columns"
    async with pool(2, "--zone", zone, "--tag", "[red]=x") as ([w1, w2], worker):
        members = (await rumormill("members", "--http", w1.http)).stdout.splitlines()
        assert members[0].split()[:4] == ["NAME", "LIVENESS", "READINESS", "SERVICE"]
        assert members[1].split()[:4] == ["w1", "alive", "passing", "embed"]
        assert all(w.gossip in line and zone in line for w, line in zip((w1, w2), members[1:3], strict=True))
        workers = (await rumormill("workers", "--service", "embed", "--http", w2.http)).stdout
        assert "\x1b" not in workers
        assert workers.count(worker.url) == 2
        assert "[red]=x" in workers
        assert "RELEASE" not in workers, "columns without content are left out"
        lookup = (await rumormill("lookup", "user-42", "--http", w1.http, "-n", "1")).stdout.splitlines()
        assert len(lookup) == 3
        assert lookup[2].startswith("routing digest ")
        events = (await rumormill("events", "--http", w1.http)).stdout
        assert "w2 joined" in events
        status = (await rumormill("status", "--http", w2.http)).stdout
        assert "plaintext: anyone can read and forge" in status
        assert "1 other member(s)" in status
        assert "drain-time" in status


async def test_readers_answer_programs_with_what_the_sidecar_said() -> None:
    async with pool(2) as ([w1, _], _worker):
        for verb in READERS:
            done = await rumormill(*verb, "--http", w1.http, "-o", "json")
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.splitlines()) == 1
            json.loads(done.stdout)
        answer = json.loads((await rumormill("workers", "-o", "json", RUMORMILL_HTTP=w1.http)).stdout)
        assert [w["name"] for w in answer["workers"]] == ["w1", "w2"]
        bare = w1.http.removeprefix("http://")
        assert (await rumormill("status", RUMORMILL_HTTP=bare)).returncode == 0, "the agent's spelling will do"


async def test_nobody_is_exit_code_one() -> None:
    async with pool(1) as ([w1], _):
        await w1.ask("/v1/drain", "PUT")
        for arguments in (("workers", "--service", "none"), ("lookup", "k"), ("lookup", "k", "--service", "embed")):
            done = await rumormill(*arguments, "--http", w1.http)
            assert done.returncode == 1
            assert done.stdout.startswith(("There are no workers.", "Nobody owns 'k': no worker"))
            assert not done.stderr


@pytest.mark.parametrize("verb", [*READERS, ("watch",), ("drain",), ("undrain",), ("leave",)], ids=" ".join)
async def test_an_unreachable_sidecar_is_one_line_and_a_hint(verb: tuple[str, ...]) -> None:
    done = await rumormill(*verb, "--http", "http://127.0.0.1:1")
    assert done.returncode == 3
    assert not done.stdout
    assert done.stderr.splitlines() == [
        "rumormill: no sidecar can be reached at http://127.0.0.1:1: connection refused",
        "  hint: start one with `rumormill agent`, or give the address of another with --http",
    ]


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("ftp://x", 2, "is not an http(s) URL"),
        ("http://", 2, "is not an http(s) URL"),
        ("http://[::1", 2, "is not a URL"),
        ("http://no.such.host.invalid", 3, "no sidecar can be reached"),
    ],
)
async def test_a_wrong_address_is_one_line_and_a_hint(url: str, code: int, words: str) -> None:
    done = await rumormill("members", "--http", url)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 4, "does not answer like a sidecar"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhtml", 4, "does not answer like a sidecar"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 4, "it answers 404 Not Found"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 3, "closed the connection"),
        (b"", 3, "closed the connection"),
    ],
    ids=["not ours", "no json", "404", "no http", "closed"],
)
async def test_something_else_at_the_address(answer: bytes, code: int, words: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        done = await rumormill("members", "--http", f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 2


async def test_drain_undrain_and_leave() -> None:
    async with pool(2) as ([w1, w2], _):
        assert (await rumormill("drain", "--http", w2.http)).stdout.startswith("Draining")
        await w1.until(has("w2", readiness="draining"))
        done = await rumormill("undrain", "--http", w2.http, "-o", "json")
        assert json.loads(done.stdout) == {"draining": False}
        await w1.until(has("w2", readiness="passing"))
        assert (await rumormill("leave", "--http", w2.http)).returncode == 0
        assert await w2.ended() == 0


async def test_watch_shows_each_change_until_the_sidecar_goes() -> None:
    async with pool(2, "--drain-time", "0s") as ([w1, w2], _), trio.open_nursery() as nursery:
        tables = await _watching(nursery, w1)
        lines = await _watching(nursery, w1, "-o", "json")
        await tables.until("w2    alive")
        first = json.loads(await lines.until("routing_digest"))
        assert [w["name"] for w in first["workers"]] == ["w1", "w2"]
        await w2.ask("/v1/drain", "PUT")
        await tables.until("w2: alive, passing → alive, draining")
        await w2.ask("/v1/leave", "POST")
        await tables.until("w2 is gone")
        await w1.ask("/v1/leave", "POST")
        assert await tables.ended() == 3
        assert await lines.ended() == 3


class _Watching:
    """A ``rumormill watch`` that runs; its lines are awaited."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._rest = b""

    async def until(self, words: str) -> str:
        assert self.process.stdout is not None
        with trio.fail_after(LIVENESS_LIMIT):
            while True:
                line, newline, rest = self._rest.partition(b"\n")
                if newline:
                    self._rest = rest
                    if words in line.decode():
                        return line.decode()
                elif data := await self.process.stdout.receive_some():
                    self._rest += data
                else:
                    raise AssertionError(f"the watch has ended without {words!r}")

    async def ended(self) -> int:
        with trio.fail_after(LIVENESS_LIMIT):
            return await self.process.wait()


async def _watching(nursery: trio.Nursery, agent: Agent, *flags: str) -> _Watching:
    process = await trio.lowlevel.open_process(
        [*COMMAND, "watch", "--http", agent.http, *flags],
        stdout=-1,
        stderr=-3,
        env=environment(PYTHONIOENCODING="utf-8"),
    )
    nursery.start_soon(_end_with_test, process)
    return _Watching(process)


async def _end_with_test(process: trio.Process) -> None:
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()


async def test_keys_are_made_once_private_and_good(tmp_path: Path) -> None:
    key = tmp_path / "pool.key"
    done = await rumormill("keys", "generate", "--out", str(key))
    assert done.returncode == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_text()
    again = await rumormill("keys", "generate", "--out", str(key))
    assert again.returncode == 2
    assert "already exists, and may be in use" in again.stderr
    assert key.read_text() == before
    assert (await rumormill("keys", "generate", "--out", "-")).stdout not in ("", before)
    assert "cannot write" in (await rumormill("keys", "generate", "--out", str(tmp_path / "no" / "k"))).stderr
    async with pool(2, "--key-file", str(key)) as ([w1, _], _worker):
        status = await w1.ask("/v1/status")
        assert (status["seal"], status["keys"]) == ("aes-256-gcm", 1)


async def test_an_authority_lets_in_only_those_it_issued_a_name(tmp_path: Path) -> None:
    ca, pub, identities = tmp_path / "pool.ca", tmp_path / "pool.ca.pub", {}
    assert (await rumormill("keys", "ca", "--out", str(ca))).returncode == 0
    for name in ("w1", "w2"):
        identities[name] = tmp_path / f"{name}.identity"
        done = await rumormill("keys", "issue", name, "--ca", str(ca), "--out", str(identities[name]))
        assert done.returncode == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in (ca, *identities.values())} == {0o600}
    assert stat.S_IMODE(pub.stat().st_mode) == 0o644, "public, whoever runs the members"
    public = await rumormill("keys", "issue", "w3", "--ca", str(pub), "--out", str(tmp_path / "x"))
    assert (public.returncode, "authority-private" in public.stderr) == (2, True)
    key = tmp_path / "key"
    await rumormill("keys", "generate", "--out", str(key))
    issued = {name: ("--ca-file", str(pub), "--identity-file", str(path)) for name, path in identities.items()}
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, "--key-file", str(key), *issued["w1"])
        join = ("--key-file", str(key), "--join", w1.gossip)
        w2 = await Agent.start(nursery, "w2", worker, *join, *issued["w2"])
        w3 = await Agent.start(nursery, "w3", worker, *join)
        for agent in (w1, w2):
            await agent.until(all_routable("w1", "w2"))
        assert {m["name"] for m in (await w1.ask("/v1/members"))["members"]} == {"w1", "w2"}
        assert "w3 at " in (await w1.logged("refused"))["text"]
        assert "--identity-file" in (await w3.logged("refused"))["text"]
        assert w3.process.returncode is None
        nursery.cancel_scope.cancel()


async def test_an_agent_that_cannot_start_says_so_in_two_lines(tmp_path: Path) -> None:
    needed = ("--name", "w1", "--cluster", "c", "--service", "s", "--worker", "http://127.0.0.1:1")
    unsealed = (*needed, "--insecure-plaintext")
    toml = tmp_path / "agent.toml"
    toml.write_text('clutser = "prod"\n')
    not_pem = tmp_path / "x.pem"
    not_pem.write_text("nothing")
    pem, key = Authority(tmp_path).issue()
    key.chmod(0o644)
    for flags, code, words in (
        ((), 2, "the agent needs --name"),
        (needed, 2, "there is no key"),
        ((*needed, "--key-file", str(tmp_path / "none")), 2, "does not exist"),
        ((*needed, "--key-file", str(tmp_path)), 2, "cannot be read"),
        ((*needed, "--config", str(toml)), 2, "unknown setting 'clutser'"),
        ((*unsealed, "--worker-pid", "4194304"), 2, "no such process"),
        ((*unsealed, "--ca-file", str(toml)), 2, "--ca-file and --identity-file need each other"),
        ((*unsealed, "--ca-file", str(toml), "--identity-file", str(toml)), 2, "authority-public"),
        ((*unsealed, "--http-cert", str(not_pem), "--http-key", str(not_pem)), 2, "do not match"),
        ((*unsealed, "--http-cert", str(pem), "--http-key", str(key)), 2, "can be read by everyone (mode 0644)"),
        ((*unsealed, "--gossip", "127.0.0.1:0", "--http", "192.0.2.1:1", "--http-token-file", str(toml)), 2, "others"),
        ((*unsealed, "--gossip", "192.0.2.1:0", "--advertise-worker", "http://192.0.2.1:1"), 5, "cannot assign"),
    ):
        done = await rumormill("agent", *flags)
        said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert done.returncode == code, done.stderr
        assert said[0].startswith("rumormill: ")
        assert words in said[0]
        assert said[1].startswith("  hint: ")
        assert len(said) == 2
