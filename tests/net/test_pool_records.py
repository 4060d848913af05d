"""The records of a real pool under loss, a freeze and a kill replay, each to the same as it recorded."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.records import play, record_pool


def test_every_record_of_a_pool_with_loss_a_freeze_and_a_kill_replays(tmp_path: Path) -> None:
    files = record_pool(tmp_path, size=5, seconds=18.0, loss=0.1)
    played = [play(path, sys.executable) for path in files]
    assert len({each.member for each in played}) == 5
    assert [each for each in played if each.differences or each.violations] == []
    assert all(each.sent and each.conclusions for each in played)
    killed, *others = played
    assert "are the beginning of an object; the rest is played" in killed.said
    assert [each.said for each in others] == [""] * 4
