"""The README is true: its first example is run as it stands, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shell import ROOT, block_with, run_block

README = (ROOT / "README.md").read_text()


def example() -> str:
    return block_with("README.md", "keys generate")


def test_the_first_example_fits_twenty_lines() -> None:
    assert len(example().splitlines()) <= 20


def test_the_first_example_does_what_it_says(tmp_path: Path) -> None:
    before = sorted(ROOT.iterdir())
    said = run_block(example(), tmp_path)
    assert re.search(r"^w1 +dead", said, re.MULTILINE), said
    assert len(re.findall(r"^w[123] +alive +passing", said, re.MULTILINE)) >= 3 + 3 + 2 + 2, said
    assert re.search(r"w1 evicted.*misses seen by", said), said
    assert sorted(ROOT.iterdir()) == before, "it leaves nothing behind"


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_every_target_the_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
