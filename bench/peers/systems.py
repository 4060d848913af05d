"""What the harness must know of a system: how to prepare it, start a node of it, and understand what a node says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.netns_testbed import NetnsHost

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".venv" / "peers"
"""Where what is built for the benches is kept."""
NODES = Path(__file__).parent / "nodes"


class Unavailable(Exception):
    """The system cannot be had here; says why, and what would help."""


@dataclass(frozen=True, slots=True)
class PeerProcess:
    """One process of a pool, from its start to its end. A host's next life has another name."""

    name: str
    host: NetnsHost
    seeds: tuple[NetnsHost, ...]
    flags: tuple[str, ...] = ()
    """The harness's own: what only this life is told."""


@dataclass(frozen=True, slots=True)
class Said:
    """One line of a node: at this time (seconds, CLOCK_MONOTONIC) it concluded this of that member.

    Words: up (of itself), joined, suspected, refuted, gone, left, updated (what it says of its worker), paused
    (itself), worker (its own has another readiness).
    """

    at: float
    event: str
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a scenario asks of every node of a system."""

    udp_only: bool = False
    """No pings over TCP, which would hide the loss of datagrams."""
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Further flags, by system."""


class System(Protocol):
    """One of those compared. ``port`` is its own on every host, so that its traffic can be told apart."""

    name: str
    port: int

    def prepare(self) -> str:
        """Build or install what is needed; the version. Raises :class:`Unavailable`."""

    def argv(self, life: PeerProcess, conditions: Conditions) -> Sequence[str]:
        """The command line of one node."""

    def read(self, line: bytes) -> Said | None:
        """What a line of its output says, if it is news of members."""

    def crowd(self, count: int, limit: float) -> Sequence[str]:
        """The command line of a process with so many nodes that join one at once; it prints a :class:`dict` of
        seconds, one_view and gone."""


def read_json(line: bytes) -> dict[str, Any] | None:
    """A line that is a JSON object; None for any other."""
    if not line.startswith(b"{"):
        return None
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return found


def read_node(line: bytes) -> Said | None:
    """What our own programs around a peer's library say: the harness's words already."""
    said = read_json(line)
    return Said(said["monotonic"], said["event"], said["who"]) if said and "event" in said else None


def run(argv: Sequence[str], what: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command of the preparations. Raises :class:`Unavailable` with its last words."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    except FileNotFoundError:
        raise Unavailable(f"{what}: {argv[0]} not found") from None
    if done.returncode:
        raise Unavailable(f"{what}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
