"""The pool as a DNS zone: what each name has, what does not exist, and answers within their limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
import trio
from dns.rdatatype import RdataType
from hypothesis import given
from hypothesis import strategies as st
from limits import LIVENESS_LIMIT
from members import member
from serving import PROCESS, pool

from rumormill.discovery.formats.dns_zone import MAX_TCP, MAX_UDP, DnsZone, label
from rumormill.discovery.listeners.dns_server import DnsServer
from rumormill.discovery.view import RoutingView
from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.view import Member, PoolView
from rumormill.sidecar.format_listeners import FormatListeners
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort, WorkerUrl

W1 = member("w1", url="http://10.0.0.1:9001")
W2 = member("w2", url="http://10.0.0.2:9002", weight=500)
SIX = member("six", url="http://[2001:db8::1]:9006")
NAMED = member("named", url="http://gpu.example:9007")
SUSPECT = member("w3", url="http://10.0.0.3:9003", liveness=Liveness.SUSPECT)
DRAINING = member("w4", url="http://10.0.0.4:9004", readiness=Readiness.DRAINING)


class Zone:
    """A zone and the view it shows."""

    def __init__(self, *members: Member, domain: str = "rumormill") -> None:
        self.view = RoutingView(process=PROCESS, wall_offset=0.0)
        self.view.update(pool(*members))
        self.zone = DnsZone(domain, lambda: self.view)

    def ask(self, name: str, kind: str = "A", *, limit: int = MAX_TCP, **words: Any) -> dns.message.Message:
        query = dns.message.make_query(name, kind, **words)
        answer = self.zone.answer_untrusted(query.to_wire(), limit=limit)
        assert answer is not None
        read = dns.message.from_wire(answer)
        assert query.is_response(read)
        return read

    def texts(self, name: str, kind: str = "A") -> list[str]:
        return sorted(str(value) for rrset in self.ask(name, kind).answer for value in rrset)


class TestNames:
    def test_a_service_has_the_addresses_of_those_that_take_new_work(self):
        zone = Zone(W1, W2, SIX, NAMED, SUSPECT, DRAINING)
        assert zone.texts("embed.rumormill.") == ["10.0.0.1", "10.0.0.2"]
        assert zone.texts("EMBED.Rumormill.", "AAAA") == ["2001:db8::1"]

    def test_suspects_are_offered_where_nobody_else_is_left(self):
        assert Zone(SUSPECT, DRAINING).texts("embed.rumormill.") == ["10.0.0.3"]

    def test_srv_has_ports_weights_that_haproxy_does_not_round_to_0_and_suspects_behind(self):
        zone = Zone(W1, W2, SIX, NAMED, SUSPECT, DRAINING)
        answer = zone.ask("_embed._tcp.rumormill.", "SRV")
        assert sorted(str(value) for value in answer.answer[0]) == [
            "0 12800 9002 w2.embed.rumormill.",
            "0 25600 9001 w1.embed.rumormill.",
            "0 25600 9006 six.embed.rumormill.",
            "0 25600 9007 gpu.example.",
            "1 25600 9003 w3.embed.rumormill.",
        ]
        assert {str(rrset.name): str(rrset[0]) for rrset in answer.additional} == {
            "six.embed.rumormill.": "2001:db8::1",
            "w1.embed.rumormill.": "10.0.0.1",
            "w2.embed.rumormill.": "10.0.0.2",
            "w3.embed.rumormill.": "10.0.0.3",
        }
        light = Zone(W1, member("w5", url="http://10.0.0.5:1", weight=1))
        weights = [value.weight for value in light.ask("_embed._tcp.rumormill.", "SRV").answer[0]]
        assert min(weights) == 256

    def test_a_worker_has_a_name_while_it_is_there(self):
        zone = Zone(W1, NAMED, DRAINING)
        assert zone.texts("w1.embed.rumormill.") == ["10.0.0.1"]
        assert zone.texts("w4.embed.rumormill.") == ["10.0.0.4"]
        assert zone.texts("named.embed.rumormill.") == ["gpu.example."]
        assert zone.ask("named.embed.rumormill.").answer[0].rdtype == RdataType.CNAME

    def test_what_can_be_no_label_has_one_that_is_its_own(self):
        assert label("w1") == "w1"
        assert label("W1") != label("w1")
        assert label("GPU box 7").startswith("gpu-box-7-")
        assert len(label("x" * 128)) <= 63
        zone = Zone(member("Node A", url="http://10.0.0.9:1", service="My Service"))
        name = f"{label('Node A')}.{label('My Service')}.rumormill."
        assert zone.texts(name) == ["10.0.0.9"]
        assert str(zone.ask(f"_{label('My Service')}._tcp.rumormill.", "SRV").answer[0][0]).endswith(name)

    def test_every_ttl_is_0(self):
        for name, kind in (("embed.rumormill.", "A"), ("_embed._tcp.rumormill.", "SRV"), ("no.rumormill.", "A")):
            answer = Zone(W1).ask(name, kind)
            assert {rrset.ttl for rrset in (*answer.answer, *answer.authority, *answer.additional)} == {0}

    def test_a_domain_may_have_several_labels(self):
        zone = Zone(W1, domain="Pool.Example")
        assert zone.texts("embed.pool.example.") == ["10.0.0.1"]


class TestWhatIsNotThere:
    @pytest.mark.parametrize(
        "name",
        ["no.rumormill.", "w9.embed.rumormill.", "a.w1.embed.rumormill.", "_no._tcp.rumormill.", "x._tcp.rumormill."],
    )
    def test_a_name_that_never_was_is_denied_with_the_soa(self, name: str):
        answer = Zone(W1).ask(name)
        assert answer.rcode() == dns.rcode.NXDOMAIN
        assert answer.authority[0].rdtype == RdataType.SOA
        assert answer.authority[0][0].minimum == 0
        assert answer.flags & dns.flags.AA

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("embed.rumormill.", "AAAA"), ("_tcp.rumormill.", "A"), ("rumormill.", "A"), ("w1.embed.rumormill.", "SRV")],
    )
    def test_a_name_without_such_a_record_has_no_data(self, name: str, kind: str):
        answer = Zone(W1).ask(name, kind)
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
        assert answer.authority[0].rdtype == RdataType.SOA

    def test_a_service_whose_last_worker_has_gone_exists_and_is_empty(self):
        zone = Zone(W1)
        zone.view.update(pool(member("x", service="rank")))
        answer = zone.ask("embed.rumormill.")
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])

    def test_other_domains_transfers_and_classes_are_refused(self):
        for name, kind, words in (
            ("example.", "A", {}),
            ("rumormill.", "AXFR", {}),
            ("rumormill.", "A", {"rdclass": "CH"}),
        ):
            assert Zone(W1).ask(name, kind, **words).rcode() == dns.rcode.REFUSED

    def test_before_the_pool_is_known_queries_fail(self):
        query = dns.message.make_query("embed.rumormill.", "A")
        answer = DnsZone("rumormill", lambda: None).answer_untrusted(query.to_wire(), limit=MAX_UDP)
        assert answer is not None
        assert dns.message.from_wire(answer).rcode() == dns.rcode.SERVFAIL


class TestWire:
    def test_an_answer_is_cut_to_what_the_caller_takes_and_says_so(self):
        zone = Zone(*(member(f"w{n}", url=f"http://10.0.1.{n}:9001") for n in range(100)))
        for words, limit, most in (
            ({}, MAX_UDP, 512),
            ({"payload": 4096}, MAX_UDP, 1232),
            ({"payload": 100}, MAX_UDP, 512),
        ):
            query = dns.message.make_query("embed.rumormill.", "A", **words)
            wire = zone.zone.answer_untrusted(query.to_wire(), limit=limit)
            assert wire is not None
            assert len(wire) <= most
            assert dns.message.from_wire(wire).flags & dns.flags.TC
        assert len(zone.texts("embed.rumormill.")) == 100

    def test_edns_is_answered_and_another_version_of_it_refused(self):
        assert Zone(W1).ask("embed.rumormill.", use_edns=0).edns == 0
        assert Zone(W1).ask("embed.rumormill.").edns == -1
        assert Zone(W1).ask("embed.rumormill.", use_edns=1).rcode() == dns.rcode.BADVERS

    def test_a_change_is_seen_by_the_next_query(self):
        zone = Zone(W1, W2)
        assert zone.texts("embed.rumormill.") == ["10.0.0.1", "10.0.0.2"]
        zone.view.update(pool(W2))
        assert zone.texts("embed.rumormill.") == ["10.0.0.2"]

    def test_an_answer_that_is_kept_has_the_id_and_the_spelling_of_its_query(self):
        zone = Zone(W1)
        for name in ("embed.rumormill.", "EmBeD.rumormill.", "embed.rumormill."):
            assert str(zone.ask(name).question[0].name) == name

    def test_an_answer_is_not_answered_and_what_cannot_be_read_is_a_format_error(self):
        zone = Zone(W1).zone
        query = dns.message.make_query("embed.rumormill.", "A").to_wire()
        assert zone.answer_untrusted(query[:2] + b"\x80" + query[3:], limit=MAX_UDP) is None
        assert zone.answer_untrusted(b"short", limit=MAX_UDP) is None
        answer = zone.answer_untrusted(query[:-3], limit=MAX_UDP)
        assert answer is not None
        assert dns.message.from_wire(answer).rcode() == dns.rcode.FORMERR

    @given(st.binary(max_size=64), st.data())
    def test_whatever_comes_is_answered_within_the_limit_or_ignored(self, garbage: bytes, data: st.DataObject):
        query = dns.message.make_query("_embed._tcp.rumormill.", "SRV", use_edns=0).to_wire()
        cut = data.draw(st.integers(0, len(query)))
        for wire in (garbage, query[:cut] + garbage, query[:cut] + garbage + query[cut + len(garbage) :]):
            answer = Zone(W1, W2).zone.answer_untrusted(wire, limit=MAX_UDP)
            assert answer is None or (len(answer) <= MAX_UDP and answer[:2] == wire[:2])


def local(view: PoolView) -> RoutingView:
    shown = RoutingView(process=PROCESS, wall_offset=0.0)
    shown.update(view)
    return shown


def ask_until_answered(ask: Callable[..., dns.message.Message], query: dns.message.Message, port: int) -> Any:
    """What a resolver does whose query, or its answer, was lost in the flood."""
    while True:
        with suppress(dns.exception.Timeout):
            return ask(query, "127.0.0.1", port=port, timeout=1)


async def test_udp_and_tcp_share_a_port_and_a_flood_is_answered_in_part():
    """Ten thousand queries at once: the loop still turns, and the server answers afterwards."""
    settings = Settings(
        name="w1",
        cluster="t",
        service="embed",
        worker=WorkerUrl.parse("http://127.0.0.1:1"),
        dns=HostPort("127.0.0.1", 0),
    )
    opened = await FormatListeners.open(settings)
    assert opened.dns_udp is not None
    shown = local(pool(W1))
    server = DnsServer(DnsZone("rumormill", lambda: shown), Counter(), 64)
    port = opened.dns_udp.getsockname()[1]
    query = dns.message.make_query("embed.rumormill.", "A")
    with trio.fail_after(LIVENESS_LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, opened.dns_udp, opened.dns_tcp)
            flood = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
            for number in range(10_000):
                await flood.sendto(number.to_bytes(2, "big") + query.to_wire()[2:], ("127.0.0.1", port))
            for ask in (dns.query.udp, dns.query.tcp):
                again = partial(ask_until_answered, ask, query, port)
                answer = await trio.to_thread.run_sync(again, abandon_on_cancel=True)
                assert str(answer.answer[0][0]) == "10.0.0.1"
            flood.close()
            nursery.cancel_scope.cancel()
    opened.dns_udp.close()
