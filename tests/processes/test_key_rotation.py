"""Keys change in a pool of real agents, by the verbs: everywhere, in the files too, and nobody is lost."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import httpx2
import trio
from agents import Agent, Worker, all_routable, pool, rumormill
from key_files import key_file

from rumormill.gossip.security.keyring import key_name_of
from rumormill.sidecar.key_file import read_key_file

A, B, C = (letter * 32 for letter in (b"a", b"b", b"c"))
KA, KB, KC = map(key_name_of, (A, B, C))


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


async def succeeds(*arguments: str) -> str:
    done = await rumormill(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def written(agents: tuple[Agent, ...], files: list[Path], *keys: bytes) -> None:
    """Each has written these keys to its file, and said so."""
    for agent, path in zip(agents, files, strict=True):
        await agent.logged("key file", keys=list(map(key_name_of, keys)))
        assert read_key_file(path).ring.keys == keys


async def keeps_its_keys_to_itself(agent: Agent, said: str) -> None:
    """It holds one key now, nobody was lost on the way to it, and no key is in anything that it, or a command, says."""
    status = await agent.ask("/v1/status")
    assert (status["keys"], status["seal_trouble"]) == (1, "")
    assert not {"dropped_unknown_key", "dropped_key"} & status["counters"].keys()
    kinds = {line["event"] for line in agent.lines}
    assert not {"evicted", "refused"} & kinds  # a busy machine may make a suspicion, and it is refuted
    async with httpx2.AsyncClient(trust_env=False) as client:
        status["metrics"] = (await client.get(f"{agent.http}/metrics")).text
    assert "rumormill_sealed 1.0" in status["metrics"]
    told = [*map(str, agent.lines), *agent.other, str(await agent.ask("/v1/events")), str(status), said]
    assert not [text for text in told for key in (A, B) if encoded(key) in text or key.hex() in text]
    assert encoded(A)[:20] not in Path(f"/proc/{agent.process.pid}/cmdline").read_text()


async def test_install_use_and_remove_reach_every_member_and_its_file(tmp_path: Path) -> None:
    files = [key_file(tmp_path / f"w{n}.key", A) for n in (1, 2, 3)]
    new = key_file(tmp_path / "new.key", B)
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, "--key-file", str(files[0]))
        w2 = await Agent.start(nursery, "w2", worker, "--key-file", str(files[1]), "--join", w1.gossip)
        w3 = await Agent.start(nursery, "w3", worker, "--key-file", str(files[2]), "--join", w1.gossip)
        agents = (w1, w2, w3)
        for agent in agents:
            await agent.until(all_routable("w1", "w2", "w3"))
        said = await succeeds("keys", "install", str(new), "--http", w2.http, "--key-file", str(files[1]))
        assert f"{KB}  opens  3 of 3" in said
        await written(agents, files, A, B)
        for path in files:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await succeeds("keys", "use", str(new), "--http", w3.http, "--key-file", str(files[1]))
        early = await rumormill("keys", "remove", KB, "--http", w1.http, "--key-file", str(new))
        stranger = str(key_file(tmp_path / "other.key", C))
        refused = await rumormill("keys", "remove", KA, "--http", w1.http, "--key-file", stranger)
        assert refused.returncode == 4
        assert "holds a key of this pool" in refused.stderr
        assert early.returncode == 4
        assert "the key that seals cannot be removed" in early.stderr
        several = str(key_file(tmp_path / "several.key", C, B))  # as a sidecar wrote it that holds more than the pool
        await succeeds("keys", "remove", KA, "--http", w1.http, "--key-file", several)
        await written(agents, files, B)
        ring = await w2.ask("/v1/keys")
        assert (ring["version"], ring["settled"], ring["members"]) == (3, True, 3)
        assert ring["keys"] == [{"id": KB, "primary": True, "accepted": True, "members": 3}]
        for agent in agents:
            await agent.until(all_routable("w1", "w2", "w3"))
            await keeps_its_keys_to_itself(agent, said)
        # A restart knows from its file which ring is the newer: a file put back by mistake is brought up to date.
        key_file(files[2], B, A)
        w3.process.kill()
        await w3.ended()
        again = await Agent.start(nursery, "w3", worker, "--key-file", str(files[2]), "--join", w1.gossip)
        await again.until(all_routable("w1", "w2", "w3"))
        await written((again,), files[2:], B)
        nursery.cancel_scope.cancel()


async def test_a_file_that_cannot_be_written_stops_nothing_and_is_said(tmp_path: Path) -> None:
    """Its folder has gone: what a full disk or a read-only mount look like to the sidecar."""
    folder = tmp_path / "gone"
    folder.mkdir()
    path = key_file(folder / "pool.key", A)
    async with trio.open_nursery() as nursery:
        w1 = await Agent.start(nursery, "w1", "http://127.0.0.1:1", "--key-file", str(path))
        path.unlink()
        folder.rmdir()
        held, new = key_file(tmp_path / "held.key", A), key_file(tmp_path / "new.key", B)
        await succeeds("keys", "install", str(new), "--http", w1.http, "--key-file", str(held))
        line = await w1.logged("key file", level="error")
        assert "cannot be written: No such file" in line["trouble"]
        assert "Key file:" in await succeeds("keys", "list", "--http", w1.http)
        nursery.cancel_scope.cancel()


async def test_the_verbs_refuse_in_words(tmp_path: Path) -> None:
    held, new = key_file(tmp_path / "held.key", A), key_file(tmp_path / "new.key", B)
    async with pool(2) as ([w1, _], _worker):
        assert "plaintext" in await succeeds("keys", "list", "--http", w1.http)
        for arguments, words in (
            (("install", str(new)), "this pool gossips in plaintext"),
            (("use", "3c45ae7"), "is neither a key id nor a key file"),
            (("install", str(tmp_path / "none")), "does not exist"),
        ):
            done = await rumormill("keys", *arguments, "--http", w1.http, "--key-file", str(held))
            assert done.returncode in (2, 4)
            assert words in done.stderr
        unproven = await rumormill("keys", "use", KA, "--http", w1.http)
        assert unproven.returncode == 2
        assert "--key-file" in unproven.stderr
        new.chmod(0o644)
        done = await rumormill("keys", "install", str(new), "--http", w1.http, "--key-file", str(held))
        assert "can be read by others" in done.stderr


async def test_plaintext_says_so_in_the_log_in_status_and_in_every_answer() -> None:
    async with pool(1) as ([w1], _worker):
        assert "anyone on the network" in (await w1.logged("plaintext", level="warning"))["text"]
        assert (await w1.ask("/v1/status"))["seal"] == "plaintext"
        assert "anyone can read and forge" in await succeeds("status", "--http", w1.http)


async def test_a_plaintext_agent_stays_outside_a_sealed_pool_and_says_why(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        key = key_file(tmp_path / "k", A)
        w1 = await Agent.start(nursery, "w1", "http://127.0.0.1:1", "--key-file", str(key))
        w2 = await Agent.start(nursery, "w2", "http://127.0.0.1:1", "--join", w1.gossip)
        told = await w2.logged("refused")
        assert told["text"].startswith(f"{w1.gossip} is sealed, and this member gossips in plaintext: start it with")
        assert "gossips in plaintext" in (await w1.logged("refused"))["text"]
        assert (await w2.ask("/v1/status"))["seal_trouble"] == told["text"]
        assert (await w2.ask("/v1/status"))["joined"] is False
        assert [member["name"] for member in (await w1.ask("/v1/members"))["members"]] == ["w1"]
        nursery.cancel_scope.cancel()
