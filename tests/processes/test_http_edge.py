"""The discovery endpoint's ways in: mutual TLS, two tokens, a unix socket; each with the verbs at the other end."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import httpx2
import trio
from agents import Agent, rumormill
from certificates import Authority

from rumormill.client import Pool

NOBODY = "http://127.0.0.1:1"


def token_file(path: Path, token: str) -> str:
    path.write_text(f"{token}\n")
    path.chmod(0o600)
    return str(path)


async def test_tls_with_a_token_for_reading_and_one_for_changes(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    read, change = token_file(tmp_path / "read", "s3cret"), token_file(tmp_path / "change", "s3same")
    flags = ("--http-cert", str(certificate), "--http-key", str(key))
    flags += ("--http-token-file", read, "--http-change-token-file", change)
    async with trio.open_nursery() as nursery:
        w1 = await Agent.start(nursery, "w1", NOBODY, *flags)
        where = ("--http", w1.http.replace("http://", "https://"))
        trusted = (*where, "--http-ca", str(authority.path))
        assert (await rumormill("status", *trusted, "--http-token-file", read)).returncode == 0
        untrusted = await rumormill("status", *where, "--http-token-file", read)
        assert untrusted.returncode == 3
        assert "certificate" in untrusted.stderr
        refused = await rumormill("status", *trusted)
        assert refused.returncode == 4
        assert "RUMORMILL_HTTP_TOKEN_FILE" in refused.stderr
        refused = await rumormill("drain", *trusted, "--http-token-file", read)
        assert refused.returncode == 4
        assert "this token allows reading only" in refused.stderr
        assert "--http-change-token-file" in refused.stderr
        assert (await rumormill("drain", *trusted, "--http-token-file", change)).returncode == 0
        for text in [*map(str, w1.lines), *w1.other]:
            assert "s3cret" not in text
            assert "s3same" not in text
        nursery.cancel_scope.cancel()


async def test_mutual_tls_lets_in_who_shows_a_certificate_of_the_authority(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.issue()
    mine, my_key = authority.issue("caller")
    foreign, foreign_key = stranger.issue("foreign")
    flags = ("--http-cert", str(certificate), "--http-key", str(key), "--http-ca", str(authority.path))
    async with trio.open_nursery() as nursery:
        w1 = await Agent.start(nursery, "w1", NOBODY, *flags)
        trusted = ("--http", w1.http.replace("http://", "https://"), "--http-ca", str(authority.path))
        known = (*trusted, "--http-cert", str(mine), "--http-key", str(my_key))
        assert (await rumormill("status", *known)).returncode == 0
        for given in ((), ("--http-cert", str(foreign), "--http-key", str(foreign_key))):
            refused = await rumormill("status", *trusted, *given)
            assert refused.returncode == 3, refused.stderr
            assert "your certificate (--http-cert" in refused.stderr
        unknown = await rumormill("status", *trusted[:2])
        assert "give --http-ca the certificate of the authority" in unknown.stderr
        drain = await rumormill("drain", *known)
        assert drain.returncode == 4
        assert "takes no changes" in drain.stderr
        nursery.cancel_scope.cancel()


async def test_a_unix_socket_is_its_owners_alone_and_serves_the_verbs(tmp_path: Path) -> None:
    path = tmp_path / "w1.sock"
    where = ("--http", f"unix:{path}")
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(path))
    left_behind.close()  # as by a sidecar that was killed
    async with trio.open_nursery() as nursery:
        w1 = await Agent.start(nursery, "w1", NOBODY, *where)
        assert w1.http == f"unix:{path}"
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert (await rumormill("members", *where)).returncode == 0
        assert (await rumormill("members", RUMORMILL_HTTP=f"unix:{path}")).returncode == 0
        assert (await rumormill("drain", *where)).returncode == 0
        async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path))) as client:
            assert (await client.get("http://any.name/v1/workers")).status_code == 200
        async with Pool([f"unix:{path}", NOBODY], service="embed") as callers:
            assert [worker.name for worker in callers.workers] == ["w1"]
        second = await rumormill(
            "agent", "--name", "w2", "--cluster", "c", "--service", "s", "--worker", NOBODY, *where,
            "--gossip", "127.0.0.1:0", "--insecure-plaintext",
        )  # fmt: skip
        assert second.returncode == 5
        assert "is in use by another process" in second.stderr
        assert (await rumormill("leave", *where)).returncode == 0
        assert await w1.ended() == 0
        assert not path.exists()


async def test_a_path_that_cannot_be_listened_on_is_refused_with_a_hint(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("precious")
    for path, words in ((plain, "is not a socket"), (tmp_path / "no" / "w1.sock", "mkdir -p")):
        done = await rumormill(
            "agent", "--name", "w1", "--cluster", "c", "--service", "s", "--worker", NOBODY,
            "--gossip", "127.0.0.1:0", "--insecure-plaintext", "--http", f"unix:{path}",
        )  # fmt: skip
        assert done.returncode == 5
        assert words in done.stderr
    assert plain.read_text() == "precious"
    gone = await rumormill("status", "--http", f"unix:{tmp_path / 'none.sock'}")
    assert gone.returncode == 3
    assert "no sidecar can be reached at unix:" in gone.stderr


async def test_beyond_loopback_and_unprotected_must_be_asked_for_and_then_takes_no_changes() -> None:
    async with trio.open_nursery() as nursery:
        w1 = await Agent.start(nursery, "w1", NOBODY, "--http", "0.0.0.0:0", "--http-insecure")
        assert "anyone on the network" in (await w1.logged("insecure", level="warning"))["text"]
        where = ("--http", w1.http.replace("0.0.0.0", "127.0.0.1"))
        assert (await rumormill("status", *where)).returncode == 0
        drain = await rumormill("drain", *where)
        assert drain.returncode == 4
        assert "takes no changes" in drain.stderr
        nursery.cancel_scope.cancel()
