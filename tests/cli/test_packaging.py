"""The wheel and the source distribution, each installed in a fresh environment and used from an empty folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from shell import all_blocks, run_block

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
ROOMS = {directory: name for name, directory in PROJECT["tool"]["setuptools"]["package-dir"].items()}
BUILD_SECONDS = 600.0
EPOCH = "1700000000"
LOOK = """
import importlib, pkgutil
import rumormill.client
from rumormill.client import Pool, SyncPool
rooms = importlib.import_module("rumormill").__path__
names = [found.name for found in pkgutil.walk_packages(rooms, "rumormill.")]
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        extras = {"dns", "google", "grpc", "opentelemetry", "textual"}
        assert missing in extras or "pip install 'rumormill[" in str(error), (name, error)
print(*names)
"""
"""A program that imports every module of the distribution. One that needs an extra says which."""


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a directory of its own, and with nothing of this checkout on the path."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "RUMORMILL_"))}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=True,
    )


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source distribution, and the wheel that is built from it and not from the checkout."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, CHECKOUT, cwd=out, SOURCE_DATE_EPOCH=EPOCH)
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(
    request: pytest.FixtureRequest, distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a fresh environment's programs."""
    home = tmp_path_factory.mktemp(request.param)
    venv.create(home / "venv", with_pip=True)
    programs = home / "venv" / "bin"
    run(programs / "pip", "install", "--quiet", "--disable-pip-version-check", distributions[request.param], cwd=home)
    return programs


def sources() -> set[str]:
    """Every file of every room, by the name it has once it is installed."""
    files = [file for room in ROOMS for file in (CHECKOUT / room).iterdir() if file.suffix in (".py", ".mjs", ".typed")]
    page = {f"rumormill/discovery/page/{file.name}" for file in (CHECKOUT / "discovery" / "page").iterdir()}
    return page | {f"{ROOMS[str(file.parent.relative_to(CHECKOUT))].replace('.', '/')}/{file.name}" for file in files}


def test_every_folder_with_modules_in_it_is_a_package_of_the_distribution() -> None:
    tops = {Path(room).parts[0] for room in ROOMS}
    folders = {str(file.parent.relative_to(CHECKOUT)) for top in tops for file in (CHECKOUT / top).rglob("*.py")}
    assert folders == set(ROOMS)
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == set(ROOMS.values())


def test_both_distributions_hold_every_file_of_every_room(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        assert {name for name in wheel.namelist() if ".dist-info/" not in name} == sources()
    with tarfile.open(distributions["sdist"]) as sdist:
        held = {f"rumormill/{name.partition('/')[2]}" for name in sdist.getnames()}
    assert sources() <= held


def test_it_says_which_version_it_is(installed: Path, tmp_path: Path) -> None:
    assert (
        run(installed / "rumormill", "--version", cwd=tmp_path).stdout == f"rumormill {PROJECT['project']['version']}\n"
    )


def test_every_module_can_be_imported(installed: Path, tmp_path: Path) -> None:
    names = run(installed / "python", "-c", LOOK, cwd=tmp_path).stdout.split()
    assert set(ROOMS.values()) <= set(names)


def test_it_makes_a_key_and_runs_a_sidecar_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    runs_a_sidecar(installed / "rumormill", tmp_path)


def runs_a_sidecar(rumormill: Path, tmp_path: Path, **environment: str) -> None:
    run(rumormill, "keys", "generate", "--out", "pool.key", cwd=tmp_path, **environment)
    names = ("--name", "w1", "--cluster", "packaging", "--service", "embed", "--worker", "http://127.0.0.1:9")
    places = ("--gossip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--key-file", "pool.key", "--drain-time", "0s")
    with subprocess.Popen(
        [rumormill, "agent", *names, *places],
        cwd=tmp_path,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as agent:
        try:
            assert agent.stderr is not None
            line = next(line for line in agent.stderr if '"serving"' in line)
            url = f"http://{json.loads(line)['http']}"
            members = json.loads(
                run(rumormill, "members", "-o", "json", "--http", url, cwd=tmp_path, **environment).stdout
            )
            assert [member["name"] for member in members["members"]] == ["w1"]
            run(rumormill, "leave", "--http", url, cwd=tmp_path, **environment)
            assert "ended" in agent.communicate(timeout=60)[1]
        finally:
            agent.kill()
    assert agent.returncode == 0


def test_the_same_sources_give_the_same_wheel(distributions: dict[str, Path], tmp_path: Path) -> None:
    """Built a second time, elsewhere, from the unpacked source distribution."""
    with tarfile.open(distributions["sdist"]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (sources_again,) = tmp_path.iterdir()
    out = tmp_path / "again"
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, sources_again, cwd=tmp_path, SOURCE_DATE_EPOCH=EPOCH)
    assert next(out.iterdir()).read_bytes() == distributions["wheel"].read_bytes()


def test_pipx_installs_it(distributions: dict[str, Path], tmp_path: Path) -> None:
    places = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    run(sys.executable, "-m", "pipx", "install", "--quiet", distributions["wheel"], cwd=tmp_path, **places)
    said = run(tmp_path / "bin" / "rumormill", "--version", cwd=tmp_path).stdout
    assert said == f"rumormill {PROJECT['project']['version']}\n"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make packages` puts into dist."""
    out = tmp_path_factory.mktemp("packages")
    run("make", "packages", f"DIST={out}", cwd=CHECKOUT)
    return out


def test_the_single_file_runs_a_sidecar_from_an_empty_folder(packages: Path, tmp_path: Path) -> None:
    copy = tmp_path / "rumormill"
    copy.write_bytes((packages / "rumormill.pyz").read_bytes())
    copy.chmod(0o755)
    python = f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin"
    runs_a_sidecar(copy, tmp_path, SHIV_ROOT=str(tmp_path / "shiv"), PATH=python)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is Debian's")
def test_the_debian_package_holds_the_program_and_its_unit(packages: Path, tmp_path: Path) -> None:
    (package,) = packages.glob("*.deb")
    run("dpkg-deb", "--extract", package, tmp_path / "root", cwd=tmp_path)
    root = tmp_path / "root"
    unit = (root / "lib" / "systemd" / "system" / "rumormill@.service").read_text()
    (program,) = re.findall(r"^ExecStart=(\S+) agent$", unit, re.MULTILINE)
    assert (root / program[1:]).read_bytes() == (packages / "rumormill.pyz").read_bytes()
    assert (root / "usr" / "bin" / "rumormill").readlink() == Path(program)
    wanted = run("dpkg-deb", "--field", package, "Depends", cwd=tmp_path).stdout
    assert wanted.startswith("python3 (>= 3.")


@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_the_tutorial_goes_through_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """Three workers, a caller, a kill, a drain: docs/start as it stands, after its step for those with a checkout."""
    prepare, rest = all_blocks("docs/start/index.md").split("\n", 1)
    assert prepare.startswith("make venv"), "the first block prepares a checkout"
    said = run_block(rest, tmp_path, programs=installed)
    assert "200 of 200 answered" in said, said
    assert re.search(r"^w1 +dead", said, re.MULTILINE), said
    assert "Traceback" not in said, said


def test_it_carries_its_types_and_its_license(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        names = wheel.namelist()
    assert all(f"{name.replace('.', '/')}/py.typed" in names for name in ROOMS.values())
    assert any(re.fullmatch(r"rumormill-.*\.dist-info/licenses/LICENSE", name) for name in names)
