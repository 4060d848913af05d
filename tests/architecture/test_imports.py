"""The house keeps its shape: imports go one way, and pure rooms know no clock, socket or chance."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT: dict[str, set[str]] = {
    "membership": set(),
    "ring": set(),
    "worker": set(),
    "gossip": {"membership"},
    "recording": {"gossip", "membership"},
    "discovery": {"membership", "ring"},
    "client": {"ring", "discovery"},
    "sidecar": {"recording", "gossip", "membership", "ring", "discovery"},
    "simulations": {"recording", "gossip", "membership", "ring", "discovery"},
    "cli": {"recording", "membership", "ring", "gossip", "discovery", "client", "sidecar", "simulations", "worker"},
}
SHELLS = {"gossip/udp/transport.py"}
PURE = [
    "membership",
    "ring",
    "gossip",
    "discovery/schema",
    "discovery/formats",
    "discovery/view.py",
    "worker/redis_trust.py",
]
IMPURE = {"time", "socket", "trio", "anyio", "asyncio", "threading", "os", "secrets", "subprocess"}


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names if node.module == "rumormill"]
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room: str) -> None:
    for path in sources(room):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("rumormill.")}
        assert rooms <= MAY_IMPORT[room] | {room}, path


MAY_TAKE_FROM_DISCOVERY = {
    # The lab checks what callers see, and gives its nodes the policy bodies of the real sidecar.
    "simulations": ("rumormill.discovery.view", "rumormill.discovery.schema."),
    # The client reads the very structures that the endpoint writes, so the two cannot drift apart. The schema is pure.
    "client": ("rumormill.discovery.schema.",),
}


@pytest.mark.parametrize("room", MAY_TAKE_FROM_DISCOVERY)
def test_the_lab_and_the_client_take_only_pure_parts_of_discovery(room: str) -> None:
    for path in sources(room):
        taken = [name for name in imports(path) if name.startswith("rumormill.discovery")]
        assert all(name.startswith(MAY_TAKE_FROM_DISCOVERY[room]) for name in taken), path


def test_the_schema_loads_no_server() -> None:
    program = "import sys, rumormill.discovery.schema.workers; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"trio", "httptools", "structlog", "rumormill.discovery.server"} & set(loaded)


@pytest.mark.parametrize("place", PURE)
def test_pure_rooms_know_no_clock_no_socket_and_no_chance(place: str) -> None:
    for path in sources(place):
        if str(path.relative_to(ROOT)) in SHELLS:
            continue
        assert not {name.split(".")[0] for name in imports(path)} & IMPURE, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
                assert node.attr == "Random", f"{path}:{node.lineno} draws from the module's own generator"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("now", "utcnow", "today") or ast.unparse(node.value).endswith(
                    ("state", "self")
                ), path


def test_every_room_says_what_it_is_for() -> None:
    for room in MAY_IMPORT:
        doc = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
        assert doc, room
        assert len(doc) > 100, room


def test_the_project_installs_every_room() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for room in MAY_IMPORT:
        assert f'"rumormill.{room}" = "{room}"' in project
        assert (ROOT / room / "py.typed").exists()
