"""The README is true: its first example is run as it stands, and its links lead somewhere."""

from __future__ import annotations

import re

import pytest
from shell import ROOT, block_with

README = (ROOT / "README.md").read_text()


def example() -> str:
    return block_with("README.md", "keys generate")


def test_the_first_example_fits_twenty_lines() -> None:
    assert len(example().splitlines()) <= 20


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_every_target_the_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
