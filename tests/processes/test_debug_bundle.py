"""``rumormill debug bundle`` holds what finds a fault, and none of the secrets that the sidecar was given."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import trio
from agents import Agent, Worker, rumormill

from rumormill.gossip import KeyRing

READ, CHANGE, COMMAND_SECRET = "read-token-of-this-test", "change-token-of-this-test", "secret-of-the-operator"
PROBE_SECRET = "sk-secret-of-the-engine"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {}
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.rpartition("/")[2]] = file.read()
        return found


async def test_a_bundle_has_everything_but_secrets(tmp_path: Path) -> None:
    ring = KeyRing((b"the group key of this test......",))
    key = write(tmp_path / "key", ring.to_text())
    probe_key = write(tmp_path / "probe.key", PROBE_SECRET)
    probe = write(tmp_path / "probe.toml", f'kind = "http"\npath = "/health"\napi-key-file = "{probe_key}"\n')
    tokens = [write(tmp_path / "read", READ), write(tmp_path / "change", CHANGE)]
    flags = ("--key-file", key, "--http-token-file", tokens[0], "--http-change-token-file", tokens[1])
    flags += ("--on-critical", f"curl -H 'Authorization: {COMMAND_SECRET}' http://127.0.0.1:9", "--probe-file", probe)
    lines = ["name", "cluster", "service"]
    config = write(
        tmp_path / "agent.toml",
        "".join(f'{line} = "x"\n' for line in lines) + f'worker = "http://127.0.0.1:9"\nkey-file = "{key}"\n',
    )
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, *flags)
        out = tmp_path / "fault.tar.gz"
        asked = ("--http", w1.http, "--http-token-file", tokens[0], "--record", "--config", config, "--out", str(out))
        done = await rumormill("debug", "bundle", *asked)
        assert done.returncode == 0, done.stderr
        found = contents(out)
        nursery.cancel_scope.cancel()
    assert "errors.txt" not in found, found["errors.txt"]
    assert json.loads(found["status.json"])["settings"]["on-critical"] == "[not shown]"
    assert [row["name"] for row in json.loads(found["members.json"])["members"]] == ["w1"]
    assert json.loads(found["events.json"])["events"]
    assert b"rumormill_build_info" in found["metrics.txt"]
    origins = {row["setting"]: row["origin"] for row in json.loads(found["settings.json"])}
    assert origins["name"] == f"name in {config}"
    assert {row["check"] for row in json.loads(found["doctor.json"])} >= {"sidecar", "worker"}
    assert json.loads(found["versions.json"])["packages"]["rumormill"]
    assert len(found["record.rumor"]) > 100
    assert out.stat().st_mode & 0o777 == 0o600
    for secret in (READ, CHANGE, COMMAND_SECRET, PROBE_SECRET, ring.to_text().strip()):
        for name, content in found.items():
            assert secret.encode() not in content, (secret, name)
    for name, content in found.items():
        assert ring.keys[0] not in content, name


async def test_of_a_sidecar_that_does_not_answer_it_tells_why(tmp_path: Path) -> None:
    out = tmp_path / "fault.tar.gz"
    done = await rumormill("debug", "bundle", "--http", "http://127.0.0.1:9", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = contents(out)
    assert b"no sidecar can be reached" in found["errors.txt"]
    assert "versions.json" in found
