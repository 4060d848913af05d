"""Pools of processes: started, killed, frozen, and never left behind, whatever becomes of who started them."""

import os
import random
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from limits import LIVENESS_LIMIT

from rumormill.cli.demo import process_reaper
from rumormill.cli.demo.ports import HOST, PortHold, hold_port
from rumormill.cli.demo.processes import BadWorkerCommand, LocalPool, LocalPoolSettings, ProcessEnded

SLEEPER = f"{sys.executable} -c 'import sys, time; print(sys.argv[1], flush=True); time.sleep(600)' {{port}}"
"""A worker that serves nothing and costs nothing."""


def _ended(descriptor: int, seconds: float = LIVENESS_LIMIT) -> bool:
    """Whether the process behind a pidfd has ended, waiting for it."""
    return bool(select.select([descriptor], [], [], seconds)[0])


def test_a_held_port_is_ours_and_refuses_callers_until_a_server_takes_it() -> None:
    with hold_port(random.Random(1)) as hold:
        with pytest.raises(OSError, match="in use"):
            PortHold(hold.port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, hold.port))
        with socket.create_server((HOST, hold.port)), socket.create_connection((HOST, hold.port)):
            pass
    PortHold(hold.port).close()


def test_a_port_that_datagrams_use_is_not_taken() -> None:
    with hold_port(random.Random(2)) as hold:
        port = hold.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind((HOST, port))
        with pytest.raises(OSError, match="in use"):
            PortHold(port)


@pytest.mark.parametrize(
    ("command", "words"), [("serve --port 80", "no {port}"), ("serve '{port}", "cannot be split"), ("", "no {port}")]
)
def test_a_worker_command_that_cannot_work_is_refused(command: str, words: str) -> None:
    with pytest.raises(BadWorkerCommand, match=words):
        LocalPool(LocalPoolSettings(worker_command=command))


def test_placeholders_are_filled_and_other_braces_stay() -> None:
    settings = LocalPoolSettings(worker_command="""serve {host}:{port} --as={name} --json '{"a": {}}'""")
    assert settings.worker_argv("w2", 81) == ["serve", "127.0.0.1:81", "--as=w2", "--json", '{"a": {}}']


def test_the_key_file_is_private_and_the_addresses_are_all_different() -> None:
    with LocalPool(LocalPoolSettings(size=5, worker_command=SLEEPER)) as pool:
        assert stat.S_IMODE(pool.key_file.stat().st_mode) == 0o600
        assert stat.S_IMODE(pool.directory.stat().st_mode) == 0o700
        assert len({url for member in pool for url in (member.url, member.worker_url)}) == 10


def test_the_settings_of_whoever_runs_it_do_not_reach_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUMORMILL_NAME", "mine")
    with LocalPool(LocalPoolSettings(size=1, worker_command=SLEEPER)) as pool:
        assert not [key for key in pool.env if key.startswith("RUMORMILL_")]


def _fail_inside(pool: LocalPool) -> None:
    with pool:
        for member in pool:
            member.start_worker()
        pool["w1"].worker.signal(signal.SIGSTOP)
        assert len(process_reaper.pool_processes(str(pool.directory))) == 2
        raise ZeroDivisionError


def test_nothing_is_left_when_the_block_fails() -> None:
    pool = LocalPool(LocalPoolSettings(size=2, worker_command=SLEEPER))
    with pytest.raises(ZeroDivisionError):
        _fail_inside(pool)
    assert process_reaper.pool_processes(str(pool.directory)) == []
    assert not pool.directory.exists()
    pool.close()


def test_a_worker_that_ends_by_itself_is_noticed_with_its_last_words() -> None:
    command = f"""{sys.executable} -c 'import sys; sys.exit("no model at " + sys.argv[1])' {{port}}"""
    with LocalPool(LocalPoolSettings(size=1, worker_command=command)) as pool:
        worker = pool["w1"].worker
        pool["w1"].start_worker()
        assert worker.wait() == 1
        with pytest.raises(ProcessEnded, match=r"(?s)the worker of w1 has ended with code 1.*no model at"):
            pool.check()
        worker.signal(signal.SIGTERM)
        pool.check()


def test_a_worker_that_cannot_be_started_is_one_clear_line() -> None:
    with (
        LocalPool(LocalPoolSettings(size=1, worker_command="/nowhere/serve {port}")) as pool,
        pytest.raises(ProcessEnded, match="the worker of w1 cannot be started: /nowhere/serve: No such file"),
    ):
        pool["w1"].start_worker()


def test_killed_means_killed_with_all_children() -> None:
    child = "import time; time.sleep(600)"
    parent = f'import subprocess, sys; p = subprocess.Popen([sys.executable, "-c", "{child}"]); p.wait()'
    command = f"""{sys.executable} -c '{parent}' {{port}}"""
    with LocalPool(LocalPoolSettings(size=1, worker_command=command)) as pool:
        pool["w1"].start_worker()
        while len(found := process_reaper.pool_processes(str(pool.directory))) < 2:
            pool.check()
        descriptors = [os.pidfd_open(pid) for pid in found]
        pool["w1"].kill()
        for descriptor in descriptors:
            assert _ended(descriptor)
            os.close(descriptor)
        assert pool["w1"].worker.wait() == -signal.SIGKILL


RUNNER = """
import sys
from rumormill.cli.demo.processes import LocalPool, LocalPoolSettings
with LocalPool(LocalPoolSettings(size=2, worker_command=sys.argv[1])) as pool:
    for member in pool:
        member.start_worker()
    print(pool.directory, *(member.worker.pid for member in pool), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_runner_is_killed(number: signal.Signals) -> None:
    argv = [sys.executable, "-c", RUNNER, SLEEPER]
    runner = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert runner.stdout is not None
    directory, *pids = runner.stdout.readline().split()
    reaper = next(pid for pid in _children(runner.pid) if "process_reaper" in _command(pid))
    descriptors = [os.pidfd_open(pid) for pid in (reaper, *map(int, pids))]
    runner.send_signal(number)
    runner.communicate()
    for descriptor in descriptors:
        assert _ended(descriptor)
        os.close(descriptor)
    assert not Path(directory).exists()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
