"""A capture shows who gossips with whom, and names the members whose joins a key file opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from captures import captured
from click.testing import CliRunner
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from rumormill.cli.decode import decode
from rumormill.simulations.factories import KEYS


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "pool.key"
    path.write_text(KEYS.to_text())
    path.chmod(0o600)
    return path


def test_names_come_from_joins_and_what_a_pair_says_stays_sealed(tmp_path: Path, keys: Path) -> None:
    capture = captured(tmp_path / "gossip.pcap", KEYS)
    shown = CliRunner().invoke(decode, [str(capture), "--key-file", str(keys), "-o", "json"])
    assert shown.exit_code == 0, shown.output
    decoded = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {each["kind"] for each in decoded} == {"join", "pair"}
    assert {each["says"] for each in decoded if each["kind"] == "pair"} == {"sealed for these two"}
    assert {"Join", "Challenge", "Hello", "Welcome"} <= {each["says"] for each in decoded if each["kind"] == "join"}
    assert {"n0", "n1", "n2"} <= {each["sender"] for each in decoded}
    assert "1 other" in shown.stderr


def test_without_a_key_the_headers_are_told_and_what_to_give(tmp_path: Path) -> None:
    shown = CliRunner().invoke(decode, [str(captured(tmp_path / "gossip.pcapng", KEYS))])
    assert shown.exit_code == 0
    assert "sealed; give the pool's --key-file" in shown.stdout


def test_plaintext_is_read_as_a_whole(tmp_path: Path) -> None:
    shown = CliRunner().invoke(decode, [str(captured(tmp_path / "gossip.pcap", None))])
    assert shown.exit_code == 0
    assert "Heartbeat" in shown.stdout
    assert "n0 > n1" in shown.stdout


def test_what_is_no_capture_or_has_no_gossip_is_told(tmp_path: Path, keys: Path) -> None:
    assert CliRunner().invoke(decode, [str(keys)]).exit_code == 2
    empty = tmp_path / "empty.pcap"
    wrpcap(str(empty), [Ether() / IP() / UDP() / Raw(b"x")])
    assert CliRunner().invoke(decode, [str(empty)]).exit_code == 1


def test_a_torn_capture_is_decoded_up_to_the_tear(tmp_path: Path) -> None:
    capture = captured(tmp_path / "gossip.pcap", None)
    whole = len(CliRunner().invoke(decode, [str(capture)]).stdout.splitlines())
    capture.write_bytes(capture.read_bytes()[:-150])
    torn = CliRunner().invoke(decode, [str(capture)])
    assert torn.exit_code == 0
    assert whole - 3 < len(torn.stdout.splitlines()) < whole
