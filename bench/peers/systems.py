"""The interface of a compared system: how to install it, how to start a node, and how to read its output."""

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
"""Where programs built for the benches are kept."""
NODES = Path(__file__).parent / "nodes"


class Unavailable(Exception):
    """The system is not available here. The text says why, and what to install."""


@dataclass(frozen=True, slots=True)
class PeerProcess:
    """How to start one process of a pool. Each process on a host has its own name."""

    name: str
    host: NetnsHost
    seeds: tuple[NetnsHost, ...]
    flags: tuple[str, ...] = ()
    """Extra flags for this process only."""


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """One event of a node about a member, with its time (seconds, CLOCK_MONOTONIC).

    Events: up (itself), joined, suspected, refuted, gone, left, updated (its metadata), paused (itself), worker (its
    worker's readiness changed).
    """

    at: float
    kind: str
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Conditions that a scenario sets for every node."""

    udp_only: bool = False
    """Disables pings over TCP, which would hide the loss of datagrams."""
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Extra flags, by system."""
    delay: float = 0.0
    """Seconds for which the switch holds each packet back."""
    jitter: float = 0.0
    """The most by which that differs from packet to packet, in seconds."""


class System(Protocol):
    """A compared system. Each has its own ``port``, so that its traffic can be counted separately."""

    name: str
    port: int

    def prepare(self) -> str:
        """Build or install what is needed, and return the version. Raises :class:`Unavailable`."""

    def argv(self, process: PeerProcess, conditions: Conditions) -> Sequence[str]:
        """The command line of one node."""

    def read(self, line: bytes) -> NodeEvent | None:
        """The event in a line of its output, if there is one."""

    def crowd(self, count: int, limit: float) -> Sequence[str]:
        """The command line of one process with that many nodes, which all join one of them at once.

        It prints a JSON object with seconds, one_view and gone.
        """


def read_json(line: bytes) -> dict[str, Any] | None:
    """A line that is a JSON object; None for any other."""
    if not line.startswith(b"{"):
        return None
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return found


def read_node(line: bytes) -> NodeEvent | None:
    """Read a line of our own programs around a peer's library, which already use the event names."""
    found = read_json(line)
    return NodeEvent(found["monotonic"], found["event"], found["who"]) if found and "event" in found else None


def run(argv: Sequence[str], what: str, env: Mapping[str, str] | None = None) -> str:
    """Run a setup command. Raises :class:`Unavailable` with its last output."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    except FileNotFoundError:
        raise Unavailable(f"{what}: {argv[0]} not found") from None
    if done.returncode:
        raise Unavailable(f"{what}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
