"""``rumormill decode``: what a capture of the network shows of gossip.

A header can be read by anybody. What two members say to each other is sealed with a key that only those two can derive,
so no key file opens it: their records do (``rumormill record dump``). The key file opens the datagrams of joins, which
carry the records of members and so their names. Gossip in plaintext is read as a whole.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from rumormill.cli.durations import utc_stamp
from rumormill.cli.exit_codes import EPILOG, NONE_FOUND, BadRequest
from rumormill.gossip.security.credentials import MemberKeys
from rumormill.gossip.security.keyring import KeyRing
from rumormill.gossip.security.seal import HEADER, HEADER_BYTES, PAIR, PLAIN, STRANGER, DecryptError, Seal
from rumormill.gossip.wire import Alive, AnyMessage, Hello, UndecodablePayload, Welcome, decode_untrusted
from rumormill.membership.record import InvalidRecord, MemberId, decode_record_untrusted, member_id_of
from rumormill.sidecar.key_file import read_key_file

KINDS = {PAIR: "pair", PLAIN: "plain", STRANGER: "join"}
"""By the first byte of a header."""
SEALED = "sealed for these two"


class Packet(NamedTuple):
    """A UDP packet of a capture."""

    at: float
    """Seconds since 1970."""
    source: str
    target: str
    """host:port"""
    data: bytes


class DecodedDatagram(msgspec.Struct, frozen=True):
    """A datagram of gossip."""

    at: str
    source: str
    target: str
    kind: str
    sender: str
    """A name, or the member id in hexadecimal digits where no name is known."""
    receiver: str
    """The same; empty if the sender did not know whom it addressed."""
    counter: int
    size: int
    """Bytes, without the headers of UDP and IP."""
    says: str
    """The messages; or why they cannot be read."""


class Decoder:
    """Decodes datagrams in order, and learns the names of members from those that it can open."""

    def __init__(self, keys: KeyRing | None) -> None:
        """``keys`` are the pool's group keys."""
        self._keys = keys
        self._seal = Seal(keys, "", MemberKeys.generate(os.urandom))
        self._names: dict[MemberId, str] = {}

    def decode_untrusted(self, packet: Packet) -> DecodedDatagram | None:
        """None if this is no datagram of gossip."""
        data = packet.data
        if len(data) < HEADER_BYTES or data[0] not in KINDS:
            return None
        _, _, _, sender, receiver, counter = HEADER.unpack_from(data)
        says = self._says(data, sender)
        return DecodedDatagram(
            utc_stamp(packet.at),
            packet.source,
            packet.target,
            KINDS[data[0]],
            self._name(sender),
            self._name(receiver) if any(receiver) else "",
            counter,
            len(data),
            says,
        )

    def _says(self, data: bytes, sender: bytes) -> str:
        if data[0] == PAIR:
            return SEALED
        payload = data[HEADER_BYTES:] if data[0] == PLAIN else self._opened(data, sender)
        if payload is None:
            return "sealed with another group key" if self._keys else "sealed; give the pool's --key-file"
        try:
            messages = decode_untrusted(payload).messages
        except UndecodablePayload as error:
            return f"damaged: {error}"
        self._learn_names(messages)
        return ", ".join(type(message).__name__ for message in messages) or "its load"

    def _opened(self, data: bytes, sender: bytes) -> bytes | None:
        """The payload of a join, if one of the keys opens it."""
        self._seal.label = data[2:10]
        try:
            return self._seal.open_from_stranger(data, MemberId(sender))
        except DecryptError:
            return None

    def _learn_names(self, messages: Iterable[AnyMessage]) -> None:
        for message in messages:
            if isinstance(message, Hello | Alive):
                self._learn_name(bytes(message.record))
            elif isinstance(message, Welcome):
                for signed in message.records:
                    self._learn_name(bytes(signed.record))

    def _learn_name(self, encoded: bytes) -> None:
        try:
            record = decode_record_untrusted(encoded)
        except InvalidRecord:
            return
        self._names[member_id_of(record.instance)] = record.name

    def _name(self, member_id: bytes) -> str:
        return self._names.get(MemberId(member_id), member_id.hex())


@click.command(epilog=EPILOG)
@click.argument("capture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key-file", type=click.Path(path_type=Path), help="The pool's group keys, which open the joins.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="text, or a JSON object a line."
)
def decode(capture: Path, key_file: Path | None, output: str) -> None:
    """Show the gossip in a capture of the network (pcap or pcapng).

    Who sent what kind of datagram to whom and when. What two members say to each other is sealed for these two, and no
    key file opens it: save their records for that (`rumormill record dump`). Names come from joins in the capture.

    \b
    tcpdump -i any -w gossip.pcap udp port 7946
    rumormill decode gossip.pcap --key-file pool.key
    """
    decoder = Decoder(read_key_file(key_file).ring if key_file else None)
    kinds: Counter[str] = Counter()
    for packet in read_capture(capture):
        decoded = decoder.decode_untrusted(packet)
        if decoded is None:
            kinds["other"] += 1
            continue
        kinds[decoded.kind] += 1
        click.echo(msgspec.json.encode(decoded) if output == "json" else _line(decoded))
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    click.echo(f"{kinds.total()} UDP packets: {counts}" if kinds else "no UDP packets", err=True)
    if kinds.total() == kinds["other"]:
        raise click.exceptions.Exit(NONE_FOUND)


def _line(decoded: DecodedDatagram) -> str:
    receiver = decoded.receiver or "?"
    return (
        f"{decoded.at}  {decoded.source} > {decoded.target}  {decoded.kind:<5} {decoded.sender} > {receiver}"
        f"  #{decoded.counter} {decoded.size} B  {decoded.says}"
    )


def read_capture(path: Path) -> Iterator[Packet]:
    """The UDP packets of a file. A torn end is left out. Raises :class:`BadRequest`."""
    try:
        from scapy.error import Scapy_Exception
        from scapy.layers.inet import IP, UDP
        from scapy.layers.inet6 import IPv6
        from scapy.utils import PcapReader
    except ImportError:
        raise BadRequest("captures are read with scapy", "pip install 'rumormill[decode]'") from None
    try:
        with path.open("rb") as file:
            for packet in PcapReader(file):  # type: ignore[arg-type]  # it takes files too
                if UDP in packet and (IP in packet or IPv6 in packet):
                    network, udp = packet[IP] if IP in packet else packet[IPv6], packet[UDP]
                    source, target = f"{network.src}:{udp.sport}", f"{network.dst}:{udp.dport}"
                    yield Packet(float(packet.time), source, target, bytes(udp.payload))
    except (Scapy_Exception, EOFError, OSError) as error:
        raise BadRequest(f"{path}: {error}", "give a file that tcpdump -w wrote") from None
