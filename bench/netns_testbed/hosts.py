"""Hosts in namespaces: made by ``ip``, ruled by ``nft``, gone when the block ends.

    with Bed(3) as bed:
        bed.start(bed[0], ["some", "program"])
        bed.lose(0.1)                    # of all that arrives anywhere
        bed.cut(bed[0], bed[1])          # nothing from the first reaches the second; the other way is open
        bed.mend()

Every drop is on the input side, so no sender is told (a drop on the way out answers ``sendto`` with an error).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.netns_testbed.sniffer import Sniffer

TABLE = """
table inet bed {
  {counters}
  chain faults {
  }
  chain silence {
  }
  chain input {
    type filter hook input priority 0
    iifname != "eth0" accept
    jump silence
    jump faults
  }
  chain output {
    type filter hook output priority 0
    oifname != "eth0" accept
    {counting}
  }
}
"""
COUNTER = "counter port{port} {{\n  }}"
COUNTING = (
    "meta l4proto {{ tcp, udp }} th sport {port} counter name port{port}\n    tcp dport {port} counter name port{port}"
)
SILENCE = "add rule inet bed silence meta l4proto {{ tcp, udp }} th dport {port} drop\n"
NOISE = "flush chain inet bed silence\n"


class NoBed(Exception):
    """The bed cannot be made; says what was tried and what was answered."""


@dataclass(frozen=True, slots=True)
class NetnsHost:
    """One host of the bed: a namespace with the addresses its processes bind to. Up to 254."""

    number: int
    namespace: str
    ip: str
    ip6: str
    mac: str


class Bed:
    """So many hosts on one switch; a context manager.

    ``ports`` are those whose traffic is counted: a process that sends from one of them over UDP, or speaks TCP to or
    from it, is counted on its own host. ``delay`` seconds (and up to ``jitter`` more) are what every packet takes.
    """

    def __init__(self, hosts: int, *, ports: Iterable[int] = (), delay: float = 0.0, jitter: float = 0.0) -> None:
        self._tag = f"bed{os.getpid()}"
        self._switch = f"{self._tag}-switch"
        self._delay = (delay, jitter)
        self._ports = tuple(ports)
        self._proxy: subprocess.Popen[bytes] | None = None
        self.hosts = [self._host(number) for number in range(hosts)]

    def _host(self, n: int) -> NetnsHost:
        return NetnsHost(n, f"{self._tag}-{n}", f"10.77.0.{n + 1}", f"fd77::{n + 1:x}", f"02:00:00:00:00:{n + 1:02x}")

    def __getitem__(self, number: int) -> NetnsHost:
        return self.hosts[number]

    def __len__(self) -> int:
        return len(self.hosts)

    def __enter__(self) -> Bed:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def command(self, host: NetnsHost, argv: Sequence[str]) -> list[str]:
        """The command line that runs a program on a host; the program takes the place of the command, same pid."""
        return ["nsenter", f"--net=/run/netns/{host.namespace}", *argv]

    # --- faults

    def lose(self, share: float, hosts: Iterable[NetnsHost] = ()) -> None:
        """Of everything that arrives at these hosts (at all, without any), drop this share, each on its own."""
        rule = f"add rule inet bed faults numgen random mod 1000 < {round(share * 1000)} drop\n"
        self._rule(dict.fromkeys(hosts or self.hosts, rule))

    def cut(self, source: NetnsHost, target: NetnsHost) -> None:
        """Nothing from the first arrives at the second any more."""
        self._rule({target: _from([source])})

    def split(self, *sides: Sequence[NetnsHost]) -> None:
        """Each side hears only itself."""
        rules: dict[NetnsHost, str] = {}
        for side in sides:
            others = [host for other in sides if other is not side for host in other]
            rules |= dict.fromkeys(side, _from(others))
        self._rule(rules)

    def mend(self) -> None:
        """Whatever was dropped arrives again."""
        self._rule(dict.fromkeys(self.hosts, "flush chain inet bed faults\n"))

    def silence(self, host: NetnsHost, port: int) -> None:
        """Nothing for this port reaches the host any more, so that its kernel refuses nothing once the port is dead.

        (Dropping the refusals instead would use up what the kernel allows itself of them: icmp_ratelimit.)
        """
        self._rule({host: SILENCE.format(port=port)})

    def voice(self, host: NetnsHost) -> None:
        """What is sent to the host arrives again, and is refused where nobody listens."""
        self._rule({host: NOISE})

    def sent(self, port: int) -> dict[NetnsHost, tuple[int, int]]:
        """Packets and bytes (with IP headers) that processes on this port have sent, by host, since the bed stands."""
        asked = {host: self._nft(host, "-j", "list", "counters") for host in self.hosts}
        return {host: _reading(_answer(process), port) for host, process in asked.items()}

    def ear(self, host: NetnsHost, port: int) -> Sniffer:
        """Hears what processes of a host send from this port, while the block lasts."""
        return Sniffer(self._switch, f"port{host.number}", port)

    def _rule(self, rules: Mapping[NetnsHost, str]) -> None:
        """All at once, as nearly as this machine can."""
        running = {host: self._nft(host, "-f", "-") for host in rules}
        for host, process in running.items():
            assert process.stdin is not None
            process.stdin.write(rules[host].encode())
            process.stdin.close()
            process.stdin = None
        for process in running.values():
            _answer(process)

    def _nft(self, host: NetnsHost, *arguments: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(host, ["nft", *arguments]), stdin=pipe, stdout=pipe, stderr=pipe)

    # --- made and unmade

    def _make(self) -> None:
        _sweep()
        _ip([f"netns add {self._switch}", *(f"netns add {host.namespace}" for host in self.hosts)])
        _ip(
            f"link add eth0 netns {host.namespace} address {host.mac} type veth "
            f"peer name port{host.number} netns {self._switch}"
            for host in self.hosts
        )
        for host in self.hosts:
            _ip(
                [
                    f"addr add {host.ip}/16 dev eth0",
                    f"addr add {host.ip6}/64 dev eth0 nodad",
                    "link set lo up",
                    "link set eth0 up",
                    *self._neighbours(host),
                ],
                host.namespace,
            )
        ports = [f"link set port{host.number} up" for host in self.hosts]
        if any(self._delay):
            _ip(ports, self._switch)
            self._start_proxy()
        else:  # a port that is up when it joins forwards at once; one that comes up later, after a second
            join = [f"link set port{host.number} master switch" for host in self.hosts]
            _ip(["link add switch type bridge", "link set switch up", *ports, *join], self._switch)
        counters = "\n  ".join(COUNTER.format(port=port) for port in self._ports)
        counting = "\n    ".join(COUNTING.format(port=port) for port in self._ports)
        table = TABLE.replace("{counters}", counters).replace("{counting}", counting)
        self._rule(dict.fromkeys(self.hosts, table))

    def _neighbours(self, host: NetnsHost) -> list[str]:
        """Who has which address, told for good: the kernel's table of what it learned itself holds 1024 for all hosts
        together, and what does not fit is not sent."""
        return [
            f"neigh add {address} lladdr {other.mac} nud permanent dev eth0"
            for other in self.hosts
            if other is not host
            for address in (other.ip, other.ip6)
        ]

    def _start_proxy(self) -> None:
        delay, jitter = self._delay
        own = [sys.executable, "-m", "bench.netns_testbed.delay_switch", "--delay", str(delay), "--jitter", str(jitter)]
        argv = ["nsenter", f"--net=/run/netns/{self._switch}", *own, *(f"port{host.number}" for host in self.hosts)]
        self._proxy = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert self._proxy.stdout is not None
        if not self._proxy.stdout.readline():
            raise NoBed(f"the delaying switch has ended with code {self._proxy.wait()}")

    def close(self) -> None:
        """Take everything down. The processes on the hosts are their owner's to end, before."""
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.communicate()
            self._proxy = None
        for namespace in [self._switch, *(host.namespace for host in self.hosts)]:
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL, check=False)


def why_not() -> str | None:
    """Why no bed can be made here, in words; None where it can."""
    if missing := [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} not found: apt-get install -y iproute2 nftables util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root here"
    try:
        with Bed(2) as bed:
            bed.lose(0.5)
    except NoBed as error:
        return f"this kernel does not let us: {error}"
    return None


def _sweep() -> None:
    """Take down what a bed left behind whose process was killed: its programs and its namespaces."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for namespace in re.findall(r"^bed\d+-\w+", listed, re.MULTILINE):
        owner = re.sub(r"\D.*", "", namespace.removeprefix("bed"))
        if not Path(f"/proc/{owner}").exists():
            pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
            for pid in pids.stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL, check=False)


def _from(sources: Sequence[NetnsHost]) -> str:
    ip = ", ".join(host.ip for host in sources)
    ip6 = ", ".join(host.ip6 for host in sources)
    return f"add rule inet bed faults ip saddr {{ {ip} }} drop\nadd rule inet bed faults ip6 saddr {{ {ip6} }} drop\n"


def _ip(commands: Iterable[str], namespace: str | None = None) -> None:
    argv = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(commands).encode(), capture_output=True, check=False)
    if done.returncode:
        raise NoBed(f"{' '.join(argv)}: {done.stderr.decode().strip()}")


def _answer(process: subprocess.Popen[bytes]) -> bytes:
    out, err = process.communicate()
    if process.returncode:
        raise NoBed(f"nft: {err.decode().strip()}")
    return out


def _reading(answer: bytes, port: int) -> tuple[int, int]:
    parts: list[dict[str, Any]] = json.loads(answer)["nftables"]
    found = [part["counter"] for part in parts if part.get("counter", {}).get("name") == f"port{port}"]
    return found[0]["packets"], found[0]["bytes"]
