"""Runs a block of shell from a document as if pasted in a checkout; on a network of its own, where that may be."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from limits import WALKTHROUGH_LIMIT

ROOT = Path(__file__).parents[2]


def block_with(document: str, words: str) -> str:
    """The first block of shell in a document that has these words."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return next(block for block in blocks if words in block)


def all_blocks(document: str) -> str:
    """All blocks of shell in a document, one after the other."""
    return "".join(re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL))


def run_block(block: str, folder: Path, programs: Path | None = None) -> str:
    """All it says until the last program that it has started has ended. ``programs`` is where rumormill is installed;
    without it the folder becomes a checkout."""
    others = [place for place in os.environ["PATH"].split(":") if not (Path(place) / "rumormill").exists()]
    if programs is None:
        _check_out(folder)
    else:
        others.insert(0, str(programs))
    shell = subprocess.Popen(
        [*_own_network(), "bash", "-euc", block],
        cwd=folder,
        env={**os.environ, "PATH": ":".join(others), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        return shell.communicate(timeout=WALKTHROUGH_LIMIT)[0]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)


def _check_out(folder: Path) -> None:
    """Make the folder a checkout, its environment included."""
    for part in ROOT.iterdir():
        if part.name != ".git":
            (folder / part.name).symlink_to(part)


def _own_network() -> list[str]:
    """A network namespace where the machine allows one: the example's ports may be somebody else's here."""
    alone = ["unshare", "--map-root-user", "--net", "bash", "-c", 'ip link set lo up && exec "$@"', "alone"]
    try:
        allowed = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return []
    return alone if allowed else []
