"""The faults of `rumormill chaos` that need root, in a network and on a disk of their own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from limits import LIVENESS_LIMIT, WALKTHROUGH_LIMIT

CHAOS = f'{sys.executable} -c "from rumormill.cli.main import main; main()" chaos'
PATIENT = "[objectives]\nlatency = '30s'\nrecovery = '60s'\nrejoin = '60s'\n"
OWN_HOST = "ip link set lo up && mount -t tmpfs -o size=48m none /mnt && export TMPDIR=/mnt && "
"""Shell commands that begin a test: a network with nothing but loopback, and a small disk."""


def on_own_host(script: str) -> subprocess.Popen[str]:
    argv = ["unshare", "--net", "--mount", "sh", "-c", OWN_HOST + script]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_cut_lost_packets_and_a_full_disk_harm_no_request_and_leave_nothing(tmp_path: Path) -> None:
    faults = [
        "[[fault]]\nkind = 'cut'\nat = ['1s']\nlasts = '3s'\ntarget = 'w1'\n",
        "[[fault]]\nkind = 'lose'\nat = ['2s']\nlasts = '3s'\ntarget = 'w2'\nshare = 0.1\n",
        "[[fault]]\nkind = 'fill'\nat = ['3s']\nlasts = '2s'\ntarget = 'w3'\nat_most = '64MB'\n",
    ]
    schedule = tmp_path / "chaos.toml"
    schedule.write_text(f"for = '6s'\n{PATIENT}{''.join(faults)}")
    command = f"{CHAOS} run {schedule} --pool 4 --journal {tmp_path}/journal --json > {tmp_path}/verdict"
    process = on_own_host(f"{command}; echo code $?; nft list tables; ls /mnt")
    said, _ = process.communicate(timeout=WALKTHROUGH_LIMIT)
    verdict = json.loads((tmp_path / "verdict").read_text())
    assert said == "code 0\n", (said, verdict)
    assert verdict["failed"] == 0
    [cut] = [fault for fault in verdict["faults"] if fault["kind"] == "cut"]
    assert cut["rejoin"] is not None
    assert len(verdict["faults"]) == 3


def test_rules_and_files_that_a_killed_run_has_left_are_undone(tmp_path: Path) -> None:
    faults = [f"[[fault]]\nkind = '{kind}'\nat = ['1s']\nlasts = '1h'\n" for kind in ("cut", "fill")]
    schedule = tmp_path / "chaos.toml"
    schedule.write_text(f"for = '2h'\n{PATIENT}{''.join(faults)}")
    journal = tmp_path / "journal"
    script = f"{CHAOS} run {schedule} --pool 3 --journal {journal} & echo pid $!; wait $!; "
    script += f"nft list tables; {CHAOS} undo --journal {journal}; echo code $?; nft list tables"
    process = on_own_host(script)
    assert process.stdout is not None
    pid = int(process.stdout.readline().split()[1])
    seen = "".join(process.stdout.readline() for _ in range(2))
    assert re.search(r"cut of", seen), seen
    assert re.search(r"fill of", seen), seen
    until(lambda: journal.read_bytes().count(b'"undo"') == 2)
    until(lambda: "rumormill_chaos" in tables(pid))
    subprocess.run(["kill", f"-{int(signal.SIGKILL)}", str(pid)], check=True)
    said, _ = process.communicate(timeout=LIVENESS_LIMIT)
    assert re.search(r"table inet rumormill_chaos_\w+\n(.*\n)*removed the network rules", said), said
    assert "deleted /mnt/rumormill-" in said
    assert said.endswith("Nothing is left to undo.\ncode 0\n"), said


def tables(pid: int) -> str:
    """The rules in the network of this process."""
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "list", "tables"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def until(test: Callable[[], bool]) -> None:
    ends = time.monotonic() + LIVENESS_LIMIT
    while not test():
        assert time.monotonic() < ends
        time.sleep(0.05)
