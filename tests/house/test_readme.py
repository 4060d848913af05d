"""The README is true: its first example is run as it stands, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def example() -> str:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if "keys generate" in block)


def test_the_first_example_fits_twenty_lines() -> None:
    assert len(example().splitlines()) <= 20


def own_network() -> list[str]:
    """A network namespace where the machine allows one: the example's ports may be somebody else's here."""
    alone = ["unshare", "--map-root-user", "--net", "bash", "-c", 'ip link set lo up && exec "$@"', "alone"]
    try:
        allowed = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return []
    return alone if allowed else []


def test_the_first_example_does_what_it_says(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = subprocess.Popen(
        [*own_network(), "bash", "-euc", example()],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    try:
        assert shell.stdout is not None
        for line in shell.stdout:  # the background programs keep the pipe open: the example's last line ends it
            lines.append(line)
            if "w1 evicted" in line:
                break
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
    said = "".join(lines)
    assert re.search(r"^w1 +dead", said, re.MULTILINE), said
    assert len(re.findall(r"^w[123] +alive +passing", said, re.MULTILINE)) >= 3 + 3 + 2 + 2, said
    assert "misses seen by" in lines[-1]


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_every_target_the_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
