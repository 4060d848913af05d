"""Runs a block of shell from a document as its reader would: in an empty folder, and a network of its own if it may."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def block_with(document: str, words: str) -> str:
    """The first block of shell in a document that has these words."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return next(block for block in blocks if words in block)


def run_block(block: str, folder: Path, ended: Callable[[str], bool]) -> list[str]:
    """The lines it says, up to the one by which it has ended: programs in the background keep the pipe open."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = subprocess.Popen(
        [*_own_network(), "bash", "-euc", block],
        cwd=folder,
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
        for line in shell.stdout:
            lines.append(line)
            if ended(line):
                break
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
    return lines


def _own_network() -> list[str]:
    """A network namespace where the machine allows one: the example's ports may be somebody else's here."""
    alone = ["unshare", "--map-root-user", "--net", "bash", "-c", 'ip link set lo up && exec "$@"', "alone"]
    try:
        allowed = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return []
    return alone if allowed else []
