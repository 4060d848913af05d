"""A full disk and a read-only root, made in a mount namespace: the agent runs on and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from agents import Agent, Worker, all_routable

FULL = 'mount -t tmpfs -o size=16k disk "$0" && { cat /dev/zero > "$0/filler" 2> /dev/null; exec "$@"; }'
READ_ONLY = 'cd / && mount -o remount,bind,ro / && exec "$@"'


@pytest.mark.parametrize(
    ("script", "trouble"), [(FULL, "No space left on device"), (READ_ONLY, "Read-only file system")]
)
async def test_an_agent_that_cannot_write_its_snapshot_runs_on_and_says_so(script: str, trouble: str) -> None:
    folder = Path("/var/tmp/rumormill-disk")
    folder.mkdir(exist_ok=True)
    before = ("unshare", "--mount", "sh", "-c", script, str(folder))
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, "--snapshot", str(folder / "snapshot"), before=before)
        said = await w1.logged("snapshot")
        assert trouble in said["trouble"]
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip)
        for agent in (w1, w2):
            await agent.until(all_routable("w1", "w2"))
        nursery.cancel_scope.cancel()
    folder.rmdir()
