"""What the documents have a reader type does what they say."""

from __future__ import annotations

import re
from pathlib import Path

from shell import ROOT, all_blocks, block_with, run_block


def test_the_readme_example_does_what_it_says(tmp_path: Path) -> None:
    before = sorted(ROOT.iterdir())
    said = run_block(block_with("README.md", "keys generate"), tmp_path)
    assert re.search(r"^w1 +dead", said, re.MULTILINE), said
    assert len(re.findall(r"^w[123] +alive +passing", said, re.MULTILINE)) >= 3 + 3 + 2 + 2, said
    assert re.search(r"w1 evicted.*misses seen by", said), said
    assert sorted(ROOT.iterdir()) == before, "it leaves nothing behind"


def test_an_authority_step_by_step(tmp_path: Path) -> None:
    """Ends with what the logs of both sides say of the member that has no identity."""
    block = block_with("docs/run/authority.md", "keys ca")
    said = run_block(block, tmp_path)
    members = re.findall(r"^(w\d) +alive", said, re.MULTILINE)
    assert members == ["w1", "w2"], said
    assert re.search(r"^seal trouble .*--identity-file", said, re.MULTILINE), said
    assert re.search(r'"member": ?"w1".*w3 at 127.0.0.1:7953 is not a member here', said), said
    assert re.search(r'"member": ?"w3".*does not let this', said), said


def test_three_workers_of_your_own(tmp_path: Path) -> None:
    """The tutorial, from its first block to its last."""
    said = run_block(all_blocks("docs/start/index.md"), tmp_path)
    assert "200 of 200 answered" in said, said
    assert re.search(r"^w1 +dead", said, re.MULTILINE), said
    assert re.search(r"w1 evicted.*misses seen by", said), said
    ready = said[said.index("Draining") : said.index("No longer draining")]
    assert re.findall(r"^(w\d) +alive +passing", ready, re.MULTILINE) == ["w1", "w2"], said
