"""`rumormill chaos` on real processes: what it does to them, what it says of a pool, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from limits import LIVENESS_LIMIT, WALKTHROUGH_LIMIT

from rumormill.cli.chaos.journal import Journal
from rumormill.cli.chaos.local_faults import LocalFaults
from rumormill.cli.chaos.schedule import FaultSpec, TimeSpan
from rumormill.cli.demo import process_reaper
from rumormill.cli.demo.pool_watch import PoolWatch, everyone_routable
from rumormill.cli.demo.processes import LocalPool, LocalPoolSettings

CHAOS = [sys.executable, "-c", "from rumormill.cli.main import main; main()", "chaos"]
PATIENT = "[objectives]\nlatency = '30s'\nrecovery = '60s'\nrejoin = '60s'\n"
"""A busy machine is no fault of the pool."""


def run(folder: Path, schedule: str, *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "chaos.toml").write_text(schedule)
    argv = [*CHAOS, "run", str(folder / "chaos.toml"), "--journal", str(folder / "journal"), *flags]
    return subprocess.run(argv, capture_output=True, text=True, timeout=WALKTHROUGH_LIMIT, check=False)


def verdict(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.stdout.startswith("{"), ended
    said: dict[str, Any] = json.loads(ended.stdout)
    return said


def test_a_pool_of_four_survives_a_kill_a_freeze_and_a_slow_worker(tmp_path: Path) -> None:
    faults = [
        "[[fault]]\nkind = 'kill'\nat = ['1s']\nlasts = '3s'\ntarget = 'w1'\n",
        "[[fault]]\nkind = 'freeze'\nat = ['2s']\nlasts = '3s'\ntarget = 'w2'\n",
        "[[fault]]\nkind = 'slow'\nat = ['3s']\nlasts = '1s'\ntarget = 'w3'\nshare = 0.9\n",
    ]
    page = tmp_path / "chaos.html"
    ended = run(tmp_path, f"for = '6s'\n{PATIENT}{''.join(faults)}", "--pool", "4", "--json", "--out", str(page))
    said = verdict(ended)
    assert (ended.returncode, said["ok"], said["failed"]) == (0, True, 0), said
    assert [(fault["kind"], fault["member"]) for fault in said["faults"]] == [
        *(("kill", "w1"), ("freeze", "w2"), ("slow", "w3")),
    ]
    assert all(fault["rejoin"] is not None for fault in said["faults"]), said
    assert said["requests"] > 0
    assert page.read_text().count("<svg") == 3


def test_a_pool_of_one_is_too_small_for_a_kill_and_the_guard_stops(tmp_path: Path) -> None:
    abort = "[abort]\nerrors = 0.01\nover = '5s'\n"
    fault = "[[fault]]\nkind = 'kill'\nat = ['1s']\nlasts = '1h'\n"
    ended = run(tmp_path, f"for = '2h'\n{PATIENT}{abort}{fault}", "--pool", "1", "--json")
    said = verdict(ended)
    assert ended.returncode == 13, said
    assert "The pool is too small: no worker was left during the kill of w1." in said["verdict"]
    assert "failed, more than 1.00%" in said["stopped"]
    assert said["error_budget_spent"] > 1


def test_without_a_guard_the_overspent_budget_fails_the_run(tmp_path: Path) -> None:
    abort = "[abort]\nerrors = 0.99\n"
    fault = "[[fault]]\nkind = 'kill'\nat = ['500ms']\nlasts = '15s'\n"
    ended = run(tmp_path, f"for = '1s'\n{PATIENT}{abort}{fault}", "--pool", "1", "--json")
    said = verdict(ended)
    assert ended.returncode == 1, said
    assert said["verdict"].startswith("Missed: requests answered rightly")
    assert "The pool is too small" in said["verdict"]


def test_ctrl_c_ends_everything_and_has_a_verdict(tmp_path: Path) -> None:
    argv = [*CHAOS, "run", "--pool", "2", "--every", "2s", "--lasts", "1h", "--journal", str(tmp_path / "journal")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert "kill of" in first
    folder = pool_folder(process.pid)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=LIVENESS_LIMIT)
    assert process.returncode == 130, rest
    assert "Stopped early: SIGINT" in rest
    assert process_reaper.pool_processes(folder) == []
    assert not Path(folder).exists()


def pool_folder(pid: int) -> str:
    """The folder of the pool that this process has started."""
    mark = f"{process_reaper.POOL_VARIABLE}=".encode()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    words = [word for child in children for word in process_reaper.environment(int(child)) if word.startswith(mark)]
    return words[0].removeprefix(mark).decode()


async def test_the_skewed_clock_is_set_ahead_and_back_and_the_pool_stays_whole(tmp_path: Path) -> None:
    if not any(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")):
        pytest.skip("libfaketime is missing: apt-get install -y faketime")
    spec = FaultSpec(kind="skew", offset=TimeSpan(7200.0))
    with Journal(tmp_path / "journal") as journal, LocalPool(LocalPoolSettings(size=2)) as pool:
        faults = LocalFaults(pool, journal)
        faults.prepare([spec])
        watch = PoolWatch({member.name: member.url for member in pool}, "embed")
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            pool.start()
            await watch.until(pool.members, everyone_routable(pool.members), "one view", LIVENESS_LIMIT)
            async with faults.inject(spec, "w1"):
                await logged(pool, "w1", "set by +7200.0 s")
            await logged(pool, "w1", "set by -7200.0 s")
            await watch.until(pool.members, everyone_routable(pool.members), "one view", LIVENESS_LIMIT)
            assert not [change for change in watch.changes if change.state == "gone"]
            nursery.cancel_scope.cancel()


async def logged(pool: LocalPool, name: str, words: str) -> None:
    with trio.fail_after(LIVENESS_LIMIT):
        while words not in pool[name].sidecar.log.read_text():
            await trio.sleep(0.05)


def test_a_pool_that_runs_already_is_broken_by_commands_with_traffic_of_its_own(tmp_path: Path) -> None:
    """The commands freeze a sidecar of a pool that the run knows only by its URLs."""
    traffic = tmp_path / "traffic.py"
    traffic.write_text("import time\nwhile True:\n    print('{\"seconds\": 0.01}', flush=True)\n    time.sleep(0.01)\n")
    with LocalPool(LocalPoolSettings(size=3)) as pool:
        pool.start()
        urls = [flag for url in pool.urls for flag in ("--sidecar", url)]
        until_serving(pool)
        script = tmp_path / "signal.py"
        pids = {name: pool[name].sidecar.pid for name in pool.members}
        script.write_text(f"import os, sys\nos.kill({pids}[sys.argv[2]], int(sys.argv[1]))\n")
        commands = [f"{name} = '{sys.executable} {script} {number} {{name}}'" for name, number in SIGNALS.items()]
        schedule = f"for = '3s'\n{PATIENT}[[fault]]\nkind = 'freeze'\nat = ['1s']\nlasts = '1s'\ntarget = 'w2'\n"
        schedule += "[commands.freeze]\n" + "\n".join(commands)
        ended = run(tmp_path, schedule, *urls, "--json", "--traffic", f"{sys.executable} {traffic}")
        said = verdict(ended)
        assert ended.returncode == 0, said
        assert [fault["member"] for fault in said["faults"]] == ["w2"]
        assert Path(f"/proc/{pids['w2']}/stat").read_text().rpartition(")")[2].split()[0] != "T", "it is still stopped"


SIGNALS = {"do": int(signal.SIGSTOP), "undo": int(signal.SIGCONT)}


def until_serving(pool: LocalPool) -> None:
    """Until every sidecar listens."""
    ends = time.monotonic() + LIVENESS_LIMIT
    while not all("serving" in member.sidecar.log.read_text() for member in pool if member.sidecar.log.exists()):
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], 2, "say which pool"),
        (["--pool", "3", "--every", "soon"], 2, "is not a time"),
        (["--pool", "3", "--for", "1s"], 2, "never comes"),
        (["--sidecar", "http://127.0.0.1:1"], 3, "http://127.0.0.1:1"),
    ],
)
def test_a_mistake_breaks_nothing(tmp_path: Path, flags: list[str], code: int, words: str) -> None:
    argv = [*CHAOS, "run", "--journal", str(tmp_path / "journal"), *flags]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=LIVENESS_LIMIT, check=False)
    assert ended.returncode == code, ended
    assert words in ended.stderr


def test_without_root_the_faults_of_the_network_say_that_they_need_it() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    program = "import os; from rumormill.cli.chaos.local_faults import check_nft; os.setuid(65534); check_nft()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "cut and lose need" in ended.stderr
