"""The unit of deploy/systemd under a real systemd: it starts, reloads, is watched, and stops as it says."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from limits import LIVENESS_LIMIT
from shell import ROOT
from systemd_machine import MachineUnavailable, SystemdMachine

FOLDER = ROOT / "deploy" / "systemd"
UNIT = FOLDER / "rumormill@.service"
WORKER = """
[Service]
ExecStart=/opt/rumormill/bin/worker --port 9001
"""
SETTINGS = """
name = "{name}"
cluster = "units"
service = "embed"
worker = "http://127.0.0.1:9001"
gossip = "127.0.0.1:794{number}"
http = "127.0.0.1:738{number}"
join = ["127.0.0.1:7941", "127.0.0.1:7942"]
key-file = "/var/lib/rumormill/pool.key"
snapshot = "/var/lib/rumormill/{name}.snapshot"
weight = {weight}
drain-time = "0s"
"""


def settings(number: int, weight: float = 1.0) -> str:
    return SETTINGS.format(name=f"w{number}", number=number, weight=weight)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SystemdMachine]:
    """With a worker, two members' settings and a group key, as docs/run/systemd.md has them."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(SystemdMachine(tmp_path))
        except MachineUnavailable as error:
            pytest.skip(str(error))
        made.write("/etc/systemd/system/rumormill@.service", UNIT.read_text())
        made.write("/usr/lib/sysusers.d/rumormill.conf", (FOLDER / "rumormill.conf").read_text())
        made.run("systemd-sysusers")
        made.install("worker", "cli.demo.worker")
        made.write("/etc/systemd/system/worker.service", WORKER)
        made.write("/etc/rumormill/w1.toml", settings(1))
        made.write("/etc/rumormill/w2.toml", settings(2))
        made.run("install", "-d", "-o", "rumormill", "-m", "0700", "/var/lib/rumormill")
        made.run("runuser", "-u", "rumormill", "--", "/opt/rumormill/bin/rumormill", "keys", "generate", "--out", KEY)
        made.run("systemctl", "daemon-reload")
        yield made


KEY = "/var/lib/rumormill/pool.key"


def until(holds: Callable[[], bool], machine: SystemdMachine) -> None:
    give_up = time.monotonic() + LIVENESS_LIMIT
    while not holds():
        assert time.monotonic() < give_up, machine.run("journalctl", check=False) + machine.console()
        time.sleep(0.2)


def asked(machine: SystemdMachine, verb: str, number: int) -> str:
    return machine.run("/opt/rumormill/bin/rumormill", verb, "--http", f"http://127.0.0.1:738{number}")


def test_two_agents_through_a_reload_a_hang_and_a_stop(machine: SystemdMachine) -> None:
    verified = machine.run("systemd-analyze", "verify", "/etc/systemd/system/rumormill@w1.service", check=False)
    assert "rumormill" not in verified
    machine.run("systemctl", "start", "--no-block", "rumormill@w1", "rumormill@w2")
    until(lambda: "not ready: the worker" in machine.show("rumormill@w1", "StatusText"), machine)
    assert machine.show("rumormill@w1", "ActiveState") == "activating", "its worker is not there yet"

    machine.run("systemctl", "start", "worker")
    machine.run("systemctl", "start", "rumormill@w1", "rumormill@w2")  # returns once both have said READY=1
    assert machine.show("rumormill@w1", "ActiveState") == "active"
    until(lambda: machine.show("rumormill@w1", "StatusText").endswith("1 other members alive"), machine)

    machine.write("/etc/rumormill/w1.toml", settings(1, weight=0.5))
    machine.run("systemctl", "reload", "rumormill@w1")
    until(lambda: re.search(r"^w1 .*\b0\.5\b", asked(machine, "workers", 2), re.MULTILINE) is not None, machine)

    machine.run("systemctl", "kill", "--signal=SIGSTOP", "rumormill@w1")
    until(lambda: machine.show("rumormill@w1", "NRestarts") == "1", machine)
    until(lambda: machine.show("rumormill@w1", "ActiveState") == "active", machine)

    machine.run("systemctl", "stop", "rumormill@w1")
    assert machine.show("rumormill@w1", "Result") == "success"
    until(lambda: re.search(r"^w1 +left", asked(machine, "members", 2), re.MULTILINE) is not None, machine)


def test_the_unit_leaves_little_exposed() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze not found: apt-get install -y systemd")
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0
