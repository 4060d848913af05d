"""What an orchestrator does to a pool: addresses go to others, every pod is replaced, and the seeds' name is stale.

Real sidecars on hosts of their own. The seeds are a name in a file in place of /etc/hosts, which the tests rewrite
late.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from agents import environment
from limits import LIVENESS_LIMIT

from bench.netns_testbed import Bed, NetnsHost

STALE_SECONDS = float(os.environ.get("RUMORMILL_STALE_DNS", "6"))
"""How long the seeds' name leads only to addresses that nobody has any more. A minute and more is what DNS does."""
A_WHILE = 4.0
WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'


class Pod:
    """One sidecar on one host."""

    def __init__(self, pool: PodPool, name: str, host: NetnsHost) -> None:
        self.name, self.host = name, host
        self.socket = pool.folder / f"{name}-{host.number}.sock"
        self.log = pool.folder / f"{name}-{host.number}.log"
        argv = [sys.executable, "-c", "from rumormill.cli.main import main; main()", "agent", "--name", name]
        argv += ["--cluster", pool.cluster, "--service", "embed", "--worker", "http://127.0.0.1:9"]
        argv += ["--advertise-worker", f"http://{host.ip}:9"]
        argv += ["--gossip", f"{host.ip}:7946", "--http", f"unix:{self.socket}", "--join", "seeds.test:7946"]
        argv += ["--key-file", str(pool.key), "--drain-time", "0s"]
        inside = ["unshare", "--mount", "sh", "-c", WITH_HOSTS, str(pool.hosts_file), *argv]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(pool.bed.command(host, inside), env=environment(), stderr=log)

    def ask(self, path: str) -> dict[str, Any]:
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        with httpx2.Client(transport=transport, base_url="http://localhost", timeout=LIVENESS_LIMIT) as http:
            answer: dict[str, Any] = http.get(path).json()
            return answer

    def members(self) -> dict[str, tuple[str, str]]:
        """Liveness and address, by name; empty while it starts."""
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)):
                return {}
        rows = self.ask("/v1/members").get("members", [])
        return {row["name"]: (row["liveness"], row["address"]) for row in rows if row["liveness"] != "left"}

    def leave(self) -> None:
        self.process.terminate()
        assert self.process.wait(LIVENESS_LIMIT) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class PodPool:
    """The pods of one pool, and what its seeds' name leads to. Leaving the block kills them."""

    def __init__(self, bed: Bed, folder: Path, cluster: str) -> None:
        self.bed, self.cluster = bed, cluster
        self.folder = folder / cluster
        self.folder.mkdir()
        self.key, self.hosts_file = self.folder / "pool.key", self.folder / "hosts"
        generate = [sys.executable, "-c", "from rumormill.cli.main import main; main()", "keys", "generate", "--out"]
        subprocess.run([*generate, self.key], check=True, env=environment())
        self.pods: dict[str, Pod] = {}
        self.name_leads_to([])

    def __enter__(self) -> PodPool:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods.values():
            pod.kill()

    def name_leads_to(self, hosts: list[NetnsHost]) -> None:
        self.hosts_file.write_text("".join(f"{host.ip} seeds.test\n" for host in hosts) + "127.0.0.1 localhost\n")

    def start(self, name: str, host: NetnsHost) -> Pod:
        self.pods[name] = Pod(self, name, host)
        return self.pods[name]

    def start_all(self, *numbers: int) -> None:
        self.name_leads_to([self.bed[number] for number in numbers])
        for number in numbers:
            self.start(f"w{number}", self.bed[number])
        self.until_everyone_is_known()

    def until_everyone_is_known(self) -> None:
        """Every pod holds exactly the pods that run alive, each at its present address."""
        wanted = {name: ("alive", f"{pod.host.ip}:7946") for name, pod in self.pods.items()}
        until(lambda: all(pod.members() == wanted for pod in self.pods.values()), lambda: self.views())

    def views(self) -> str:
        return "\n".join(f"{name}: {pod.members()}" for name, pod in self.pods.items())

    def evicted(self) -> set[str]:
        events = [event for pod in self.pods.values() for event in pod.ask("/v1/events")["events"]]
        return {event["member"] for event in events if event["kind"] == "evicted"}


def until(holds: Callable[[], bool], story: Callable[[], str]) -> None:
    give_up = time.monotonic() + LIVENESS_LIMIT
    while not holds():
        assert time.monotonic() < give_up, story()
        time.sleep(0.2)


@pytest.fixture
def bed() -> Iterator[Bed]:
    with Bed(6) as made:
        yield made


def test_an_address_goes_to_another_pool(bed: Bed, tmp_path: Path) -> None:
    """Both names are stale: each still leads to addresses that are the other pool's now."""
    with ExitStack() as stack:
        ours = stack.enter_context(PodPool(bed, tmp_path, "ours"))
        theirs = stack.enter_context(PodPool(bed, tmp_path, "theirs"))
        ours.start_all(0, 1, 2)
        ours.pods.pop("w2").kill()
        theirs.name_leads_to([bed[0], bed[2]])
        stranger = theirs.start("w9", bed[2])
        until(lambda: ours.pods["w0"].members().get("w2", ("", ""))[0] == "dead", ours.views)
        ours.start("w2", bed[3])
        ours.until_everyone_is_known()
        time.sleep(A_WHILE)
        assert set(stranger.members()) <= {"w9"}
        ours.until_everyone_is_known()
        assert ours.evicted() == {"w2"}


def test_every_pod_is_replaced_twice_while_the_name_lags_behind(bed: Bed, tmp_path: Path) -> None:
    """Each replacement is found by a name that is two replacements old: one of its three addresses is still right."""
    with PodPool(bed, tmp_path, "ours") as pool:
        pool.start_all(0, 1, 2)
        places = [bed[0], bed[1], bed[2]]
        stale = list(places)
        for _ in range(2):
            for slot in range(3):
                name = f"w{slot}"
                pool.name_leads_to(stale)
                stale = list(places)
                pool.pods.pop(name).leave()
                places[slot] = bed[(places[slot].number + 3) % 6]
                pool.start(name, places[slot])
                pool.until_everyone_is_known()
        assert pool.evicted() == set(), "each said goodbye"


def test_a_fleet_waits_for_a_name_that_leads_nowhere_for_a_while(bed: Bed, tmp_path: Path) -> None:
    with PodPool(bed, tmp_path, "ours") as pool:
        pool.start_all(0, 1, 2)
        for name in list(pool.pods):
            pool.pods.pop(name).kill()
        for slot in range(3):
            pool.start(f"w{slot}", bed[slot + 3])
        time.sleep(STALE_SECONDS)
        assert all(len(pod.members()) <= 1 for pod in pool.pods.values()), "nobody could know of anybody"
        pool.name_leads_to([bed[3], bed[4], bed[5]])
        pool.until_everyone_is_known()
