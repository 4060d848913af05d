"""The page in a real browser: it follows a kill, works with a token, on a phone, in the dark, and at 500 workers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from agents import Agent, Worker
from limits import LIVENESS_LIMIT, WALKTHROUGH_LIMIT
from members import member
from serving import pool, serving

from rumormill.gossip import KeyRing
from rumormill.membership.record import Liveness, Readiness

ROOT = Path(__file__).parents[2]
MODULES = ROOT / ".venv" / "browser"
DRIVER = Path(__file__).parent / "browser" / "drive.mjs"
PICTURES = os.environ.get("RUMORMILL_PICTURES")
"""A folder to keep the pictures in; without it they go to a temporary one."""


class Browser:
    """A page in headless Chromium, driven step by step."""

    def __init__(self, process: trio.Process, pictures: Path) -> None:
        self._process = process
        self._pictures = pictures
        self._rest = b""

    async def __call__(self, step: str, **fields: Any) -> Any:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"step": step, **fields}).encode() + b"\n")
        answer = await self._line()
        assert "error" not in answer, (step, fields, answer["error"])
        return answer["answer"]

    async def picture(self, name: str) -> None:
        path = self._pictures / f"{name}.png"
        await self("picture", path=str(path))
        assert path.stat().st_size > 5000

    async def complaints(self) -> list[str]:
        """What the console said in red. Ends the browser."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        found: list[str] = (await self._line())["complaints"]
        return found

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with trio.fail_after(LIVENESS_LIMIT):
            while b"\n" not in self._rest:
                data = await self._process.stdout.receive_some(65536)
                assert data, "the browser's driver has ended"
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None or not (MODULES / "node_modules").is_dir():
        pytest.skip("chromium, playwright-core or axe-core is missing; as root, `make test-programs` installs them")
    pictures = Path(PICTURES) if PICTURES else tmp_path
    process = await trio.lowlevel.open_process(
        ["node", str(DRIVER)],
        stdin=-1,
        stdout=-1,
        env={**os.environ, "CHROMIUM": chromium, "BROWSER_MODULES": str(MODULES)},
    )
    try:
        yield Browser(process, pictures)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def key_file(folder: Path) -> Path:
    path = folder / "key"
    path.write_text(KeyRing((b"the key of this test, 32 bytes..",)).to_text())
    path.chmod(0o600)
    return path


async def test_a_kill_is_shown_with_its_reason_and_a_key_finds_its_owner(tmp_path: Path) -> None:
    flags = ("--key-file", str(key_file(tmp_path)))
    async with trio.open_nursery() as nursery, browser(tmp_path) as page:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, *flags)
        await Agent.start(nursery, "w2", worker, "--join", w1.gossip, *flags)
        w3 = await Agent.start(nursery, "w3", worker, "--join", w1.gossip, *flags)
        await page("open", url=f"{w1.http}/")
        for name in ("w1", "w2", "w3"):
            await page("see", selector="#members tr", text=name)
        await page("see", selector="#live", text="live")
        await page("see", selector="#ring-text", text="3 workers take work")
        assert await page("axe") == []
        await page.picture("three")
        w3.process.kill()
        await page("see", selector="#members tr.gone", text="w3")
        await page("see", selector="#events li", text="w3 evicted: 3 misses seen by")
        await page("see", selector="#ring-text", text="2 workers take work")
        await page("fill", selector="#key", value="user-42")
        await page("press", selector="#key", key="Enter")
        await page("see", selector="#owners", text="user-42: w")
        await page("fill", selector="#filter", value="dead")
        await page("see", selector="#shown", text="1 of 3")
        await page.picture("killed")
        assert await page.complaints() == []
        nursery.cancel_scope.cancel()


async def test_with_a_token_it_refuses_before_and_changes_after_a_confirmation(tmp_path: Path) -> None:
    for name, token in (("read", "read-me"), ("change", "change-me")):
        (tmp_path / name).write_text(token)
        (tmp_path / name).chmod(0o600)
    tokens = ("--http-token-file", str(tmp_path / "read"), "--http-change-token-file", str(tmp_path / "change"))
    async with trio.open_nursery() as nursery, browser(tmp_path) as page:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, "--insecure-plaintext", *tokens)
        await page("open", url=f"{w1.http}/")
        await page("see", selector="#sign-in", text="asks for its token")
        assert "w1" not in await page("text", selector="body")
        await page("fill", selector="#token", value="wrong")
        await page("click", selector="#sign-in button")
        await page("see", selector="#sign-in-error", text="missing or wrong")
        await page("fill", selector="#token", value="read-me")
        await page("click", selector="#sign-in button")
        await page("see", selector="#members tr", text="w1")
        await page("see", selector=".banner", text="plaintext")
        await page("click", selector="#drain")
        await page("see", selector="#question", text="no new work?")
        await page("click", selector='#confirm button[value="yes"]')
        await page("see", selector="#changed", text="Not done: this token allows reading only")
        await page("fill", selector="#change-token", value="change-me")
        await page("click", selector="#drain")
        await page("click", selector='#confirm button[value="no"]')
        await page("click", selector="#drain")
        await page("click", selector='#confirm button[value="yes"]')
        await page("see", selector="#members tr", text="draining")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", [50, 500])
async def test_large_pools_fit_a_desk_and_a_phone_in_light_and_dark(tmp_path: Path, count: int) -> None:
    states = [Liveness.SUSPECT, Liveness.DEAD, *[Liveness.ALIVE] * 18]
    view = pool(
        *(
            member(
                f"worker-{number:03}",
                zone=f"zone-{number % 3}",
                liveness=states[number % 20],
                readiness=Readiness.CRITICAL if number % 17 == 5 else Readiness.PASSING,
                why="3 misses seen by worker-004, worker-011" if number % 20 == 1 else "joined",
            )
            for number in range(count)
        )
    )
    async with serving(view, within=WALKTHROUGH_LIMIT) as endpoint, browser(tmp_path) as page:
        url = f"http://127.0.0.1:{endpoint.port}/"
        for name, size, dark in (
            ("desk", {"width": 1280}, count == 50),
            ("phone", {"width": 390, "height": 800}, count == 500),
        ):
            await page("open", url=url, dark=dark, **size)
            await page("see", selector="#members tr", text=f"worker-{count - 1:03}")
            assert await page("count", selector="#members tr") == count
            assert await page("wide") == []
            assert await page("axe") == []
            await page.picture(f"{count}-{name}-{'dark' if dark else 'light'}")
        assert await page.complaints() == []
