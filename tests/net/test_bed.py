"""The bed does what it says: what is to be lost is lost, in the direction it is to be, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from limits import LIVENESS_LIMIT

from bench.netns_testbed import Bed, NetnsHost
from bench.netns_testbed.sniffer import Sniffer

PORT = 7946
BEAT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 7946))
while line := sys.stdin.readline():
    for address in line.split():
        s.sendto(b"a heartbeat", (address, 7946))
"""
ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 7946))
print("up", flush=True)
while True:
    s.sendto(*s.recvfrom(2000))
"""
ASK = """
import select, socket, sys, time
to, count, begun = sys.argv[1], int(sys.argv[2]), time.monotonic()
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((to, int(sys.argv[3])))
answers = 0
try:
    for _ in range(count):
        s.send(bytes(72))
        while select.select([s], [], [], 0)[0]:
            answers += len(s.recv(2000)) == 72
    while answers < count and select.select([s], [], [], 2.0)[0]:
        answers += len(s.recv(2000)) == 72
except ConnectionRefusedError:
    answers = -1
print(answers, time.monotonic() - begun)
"""


@pytest.fixture
def bed() -> Iterator[Bed]:
    with Bed(3, ports=[PORT]) as made:
        yield made


class Echo:
    """A process that sends every datagram back, on a host."""

    def __init__(self, bed: Bed, host: NetnsHost, address: str) -> None:
        argv = bed.command(host, [sys.executable, "-c", ECHO, address])
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def ask(bed: Bed, host: NetnsHost, address: str, count: int = 1, port: int = PORT) -> tuple[int, float]:
    """So many datagrams: how many came back (-1: refused), and how long that took."""
    argv = bed.command(host, [sys.executable, "-c", ASK, address, str(count), str(port)])
    answers, seconds = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    return int(answers), float(seconds)


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_cut_is_one_way_until_it_is_mended(bed: Bed, family: str) -> None:
    address = getattr(bed[0], family)
    with Echo(bed, bed[0], address):
        assert ask(bed, bed[1], address)[0] == 1
        bed.cut(bed[0], bed[1])
        assert ask(bed, bed[1], address)[0] == 0, "the echo was not to arrive"
        assert ask(bed, bed[2], address)[0] == 1, "this host was not cut off"
        assert bed.sent(PORT)[bed[0]][0] == 3, "but it was to be sent"
        bed.mend()
        assert ask(bed, bed[1], address)[0] == 1


def test_of_what_arrives_a_share_is_lost(bed: Bed) -> None:
    with Echo(bed, bed[0], bed[0].ip):
        bed.lose(0.3, [bed[0]])
        answers, _ = ask(bed, bed[1], bed[0].ip, 400)
        assert 220 < answers < 340
        bed.mend()
        assert ask(bed, bed[1], bed[0].ip, 40)[0] == 40


def test_a_split_leaves_each_side_whole(bed: Bed) -> None:
    with Echo(bed, bed[0], bed[0].ip):
        bed.split([bed[0], bed[1]], [bed[2]])
        assert ask(bed, bed[1], bed[0].ip)[0] == 1
        assert ask(bed, bed[2], bed[0].ip)[0] == 0


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_kernel_refuses_what_is_sent_to_a_dead_port_unless_its_host_is_silent(bed: Bed, family: str) -> None:
    address = getattr(bed[0], family)
    assert ask(bed, bed[1], address)[0] == -1
    bed.silence(bed[0], PORT)
    assert ask(bed, bed[1], address)[0] == 0
    bed.unsilence(bed[0])
    assert ask(bed, bed[1], address)[0] == -1


def test_bytes_are_counted_as_ip_counts_them(bed: Bed) -> None:
    with Echo(bed, bed[0], bed[0].ip):
        ask(bed, bed[1], bed[0].ip, 10)
    assert bed.sent(PORT)[bed[0]] == (10, 10 * (20 + 8 + 72))


def test_a_slow_switch_delays_everything_and_loses_nothing() -> None:
    with Bed(3, delay=0.03, jitter=0.01) as bed, Echo(bed, bed[0], bed[0].ip):
        ask(bed, bed[1], bed[0].ip)  # the first also asks who has this address
        answers, seconds = ask(bed, bed[1], bed[0].ip, 50)
        assert answers == 50
        assert seconds > 0.06


def test_a_bed_whose_owner_was_killed_is_swept_with_its_programs() -> None:
    owner = "from bench.netns_testbed import Bed; Bed(2).__enter__(); print('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", owner], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = f"bed{process.pid}-0"
        argv = ["nsenter", f"--net=/run/netns/{left}", "sh", "-c", "echo up; exec sleep 1000"]
        program = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert program.stdout is not None
        program.stdout.readline()
        process.kill()
    with program.stdout, Bed(1):
        assert program.wait(LIVENESS_LIMIT) == -9
        assert left not in subprocess.run(["ip", "netns", "list"], capture_output=True, check=True, text=True).stdout


def test_an_ear_hears_when_a_host_sends_to_several_at_once(bed: Bed) -> None:
    argv = bed.command(bed[0], [sys.executable, "-c", BEAT, bed[0].ip])
    with (
        bed.sniffer(bed[0], PORT) as sniffer,
        bed.sniffer(bed[1], PORT) as other,
        subprocess.Popen(argv, stdin=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdin is not None

        def beat(*hosts: NetnsHost) -> float:
            begun = time.monotonic()
            print(*(host.ip for host in hosts), file=process.stdin, flush=True)
            return begun

        begun = beat(bed[1])
        assert (sniffer.heartbeat(1, LIVENESS_LIMIT) or 0) > begun
        beat(bed[1])
        assert sniffer.heartbeat(2, 0.2) is None, "it sent to one only"
        heard, tries = None, 0
        while heard is None and (tries := tries + 1) < 20:  # it may be interrupted between two datagrams
            begun = beat(bed[1], bed[2])
            heard = sniffer.heartbeat(2, 0.5)
        assert heard is not None
        assert heard > begun
        assert other.heartbeat(1, 0.2) is None, "what a host gets it has not sent"


def test_an_ear_says_so_where_there_is_nothing_to_hear(bed: Bed) -> None:
    for namespace, device in (("no-such-namespace", "port0"), (bed[0].namespace, "no-such-device")):
        with pytest.raises(OSError, match="No such"):
            Sniffer(namespace, device, PORT)
