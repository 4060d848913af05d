"""Wireshark's own dissecting engine shows gossip by our Lua script, and agrees with `rumormill decode`."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import msgspec
from captures import captured
from click.testing import CliRunner
from limits import LIVENESS_LIMIT
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from rumormill.cli.decode import decode
from rumormill.gossip import wire
from rumormill.gossip.security.seal import HEADER, PLAIN
from rumormill.simulations.factories import KEYS

SCRIPT = Path(__file__).parents[2] / "deploy" / "wireshark" / "rumormill.lua"


def tshark(capture: Path, *flags: str) -> str:
    """What tshark prints; an error of the script would be in it."""
    done = subprocess.run(
        ["tshark", "-X", f"lua_script:{SCRIPT}", "-r", str(capture), *flags],
        capture_output=True,
        text=True,
        timeout=LIVENESS_LIMIT,
        check=True,
    )
    assert "Lua" not in done.stderr
    return done.stdout


def shown(capture: Path) -> list[str]:
    """The summary of each datagram, without the two members' ids."""
    lines = tshark(capture, "-Y", "rumormill", "-T", "fields", "-e", "_ws.col.Info").splitlines()
    return [line.split(" ", 3)[3] for line in lines]


def test_a_plaintext_capture_shows_the_messages_that_decode_shows(tmp_path: Path) -> None:
    capture = captured(tmp_path / "gossip.pcap", None)
    decoded = CliRunner().invoke(decode, [str(capture), "-o", "json"])
    assert decoded.exit_code == 0, decoded.output
    says = [json.loads(line)["says"] for line in decoded.stdout.splitlines()]
    assert shown(capture) == says
    assert {"Join", "Heartbeat"} <= set(says)


def test_the_fields_of_a_message_have_their_names_and_values(tmp_path: Path) -> None:
    details = tshark(captured(tmp_path / "gossip.pcap", None), "-O", "rumormill", "-Y", "rumormill.message == 32")
    assert re.search(r"Message: Join \(32\)\n\s+name: n1\n\s+nonce: [0-9a-f]{16}\n", details)


def test_a_sealed_capture_shows_the_headers(tmp_path: Path) -> None:
    assert set(shown(captured(tmp_path / "gossip.pcap", KEYS))) == {"join, sealed", "pair, sealed"}


def test_damaged_payloads_are_marked_and_other_traffic_is_left_alone(tmp_path: Path) -> None:
    header = HEADER.pack(PLAIN, 0, bytes(8), bytes(8), bytes(8), 1)
    deep = b"\x93\x01\x01\x91" + b"\x91" * 1000
    payloads = [b"", b"\x93\x01", b"\x93\x01\x01\x91\x92\x01\xc4\xff", b"\xc1", deep, b"\xdd\xff\xff\xff\xff"]
    packets = [Ether() / IP() / UDP(sport=7946, dport=7946) / Raw(header + payload) for payload in payloads]
    packets.append(Ether() / IP() / UDP(sport=7946, dport=7946) / Raw(b"neither a header nor anything like one ......"))
    capture = tmp_path / "damaged.pcap"
    wrpcap(str(capture), packets)
    assert shown(capture) == ["plain", *["damaged"] * (len(payloads) - 1)]
    assert len(tshark(capture, "-Y", "rumormill.damaged").splitlines()) == len(payloads) - 1


def test_the_script_has_the_messages_and_fields_of_this_wire_version() -> None:
    ours = {
        (message.__struct_config__.tag, message.__name__, *message.__struct_fields__)
        for message in vars(wire).values()
        if isinstance(message, type) and issubclass(message, wire.Message) and message is not wire.Message
    }
    rows = re.findall(r"^  \[(\d+)\] = \{ (.*) \},$", SCRIPT.read_text(), re.MULTILINE)
    assert {(int(tag), *msgspec.json.decode(f"[{words}]")) for tag, words in rows} == ours
