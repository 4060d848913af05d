"""Large worlds lie in huge pages, where the kernel has them; where it has none, nothing is amiss."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from rumormill.simulations.huge_pages import HugePages

MEGABYTE = 1 << 20
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def megabytes_in_huge_pages() -> float:
    told = re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(told[1]) / 1024 if told else 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
@pytest.mark.skipif(not SETTING.exists() or "[never]" in SETTING.read_text(), reason="a kernel without huge pages")
def test_a_heap_that_has_grown_is_moved_into_huge_pages() -> None:
    rows = [bytes(200) for _ in range(300_000)]  # 70 MB
    HugePages(large=16 * MEGABYTE).cover()
    assert megabytes_in_huge_pages() >= 50, len(rows)


def test_a_small_heap_is_left_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked() -> list[tuple[int, int]]:
        pytest.fail("looked for its heap")

    monkeypatch.setattr("rumormill.simulations.huge_pages._heap", looked)
    HugePages(large=1 << 50).cover()
