"""Hosts in network namespaces, made with ``ip`` and ``nft``, and removed at the end of the block.

    with Bed(3) as bed:
        bed.start(bed[0], ["some", "program"])
        bed.lose(0.1)                    # drop a tenth of all packets, at every host
        bed.cut(bed[0], bed[1])          # one way: from the first to the second
        bed.mend()

All drops are on the input side, so that no sender notices. A drop on output would make ``sendto`` fail.
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


class TestbedUnavailable(Exception):
    """The testbed cannot be made. The text has the command and its error."""


@dataclass(frozen=True, slots=True)
class NetnsHost:
    """One host: a namespace, and the addresses that its processes bind to. A testbed has at most 254."""

    number: int
    namespace: str
    ip: str
    ip6: str
    mac: str


class Bed:
    """Hosts on one switch; a context manager.

    Traffic of ``ports`` is counted at the sending host: UDP from one of them, and TCP to or from one. Every packet
    takes ``delay`` seconds plus up to ``jitter`` more.
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
        """The command line that runs a program on a host. The program keeps the command's pid."""
        return ["nsenter", f"--net=/run/netns/{host.namespace}", *argv]

    # --- Faults

    def lose(self, share: float, hosts: Iterable[NetnsHost] = ()) -> None:
        """Drop this share of all packets that arrive at these hosts, or at all hosts, independently per packet."""
        rule = f"add rule inet bed faults numgen random mod 1000 < {round(share * 1000)} drop\n"
        self._rule(dict.fromkeys(hosts or self.hosts, rule))

    def cut(self, source: NetnsHost, target: NetnsHost) -> None:
        """Drop everything from the first host at the second."""
        self._rule({target: _from([source])})

    def split(self, *sides: Sequence[NetnsHost]) -> None:
        """Drop everything between the sides."""
        rules: dict[NetnsHost, str] = {}
        for side in sides:
            others = [host for other in sides if other is not side for host in other]
            rules |= dict.fromkeys(side, _from(others))
        self._rule(rules)

    def mend(self) -> None:
        """End all drops except silence."""
        self._rule(dict.fromkeys(self.hosts, "flush chain inet bed faults\n"))

    def silence(self, host: NetnsHost, port: int) -> None:
        """Drop everything for this port at the host, so that its kernel sends no refusals when the port is closed.

        Dropping the refusals instead would use up the kernel's icmp_ratelimit.
        """
        self._rule({host: SILENCE.format(port=port)})

    def unsilence(self, host: NetnsHost) -> None:
        """End the silence of a host. Its kernel refuses datagrams to closed ports again."""
        self._rule({host: NOISE})

    def sent(self, port: int) -> dict[NetnsHost, tuple[int, int]]:
        """Packets and bytes (with IP headers) that processes on this port have sent, by host."""
        asked = {host: self._nft(host, "-j", "list", "counters") for host in self.hosts}
        return {host: _reading(_answer(process), port) for host, process in asked.items()}

    def sniffer(self, host: NetnsHost, port: int) -> Sniffer:
        """A sniffer for what a host sends from this port."""
        return Sniffer(self._switch, f"port{host.number}", port)

    def _rule(self, rules: Mapping[NetnsHost, str]) -> None:
        """Apply rules to all hosts, as simultaneously as possible."""
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

    # --- Setup and teardown

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
                    *self._neighbors(host),
                ],
                host.namespace,
            )
        ports = [f"link set port{host.number} up" for host in self.hosts]
        if any(self._delay):
            _ip(ports, self._switch)
            self._start_proxy()
        else:  # a port that is up when it joins forwards at once; others take a second
            join = [f"link set port{host.number} master switch" for host in self.hosts]
            _ip(["link add switch type bridge", "link set switch up", *ports, *join], self._switch)
        counters = "\n  ".join(COUNTER.format(port=port) for port in self._ports)
        counting = "\n    ".join(COUNTING.format(port=port) for port in self._ports)
        table = TABLE.replace("{counters}", counters).replace("{counting}", counting)
        self._rule(dict.fromkeys(self.hosts, table))

    def _neighbors(self, host: NetnsHost) -> list[str]:
        """Permanent neighbor entries. The kernel's table of learned ones holds 1024 for all hosts together, and packets
        to others are not sent."""
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
            raise TestbedUnavailable(f"the delay switch has ended with code {self._proxy.wait()}")

    def close(self) -> None:
        """Remove all namespaces. The caller must have ended the processes on the hosts."""
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.communicate()
            self._proxy = None
        for namespace in [self._switch, *(host.namespace for host in self.hosts)]:
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL, check=False)


def unavailable_reason() -> str | None:
    """Why no testbed can be made here; None if one can."""
    if missing := [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} not found: apt-get install -y iproute2 nftables util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Bed(2) as bed:
            bed.lose(0.5)
    except TestbedUnavailable as error:
        return f"this kernel does not allow it: {error}"
    return None


def _sweep() -> None:
    """Remove programs and namespaces of testbeds whose process was killed."""
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
        raise TestbedUnavailable(f"{' '.join(argv)}: {done.stderr.decode().strip()}")


def _answer(process: subprocess.Popen[bytes]) -> bytes:
    out, err = process.communicate()
    if process.returncode:
        raise TestbedUnavailable(f"nft: {err.decode().strip()}")
    return out


def _reading(answer: bytes, port: int) -> tuple[int, int]:
    parts: list[dict[str, Any]] = json.loads(answer)["nftables"]
    found = [part["counter"] for part in parts if part.get("counter", {}).get("name") == f"port{port}"]
    return found[0]["packets"], found[0]["bytes"]
