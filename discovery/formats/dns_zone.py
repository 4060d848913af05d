"""The pool as a DNS zone. Pure: the bytes of a query in, the bytes of an answer out.

    _SERVICE._tcp.DOMAIN    SRV: a worker each, with its port and weight; suspects have priority 1, the others 0
    SERVICE.DOMAIN          A and AAAA: the workers that take new work; suspects only where nobody else is left
    NAME.SERVICE.DOMAIN     A or AAAA of one worker; CNAME where its URL has a host name
    DOMAIN                  SOA and NS

Every TTL is 0, and so is the time for which "there is no such name" may be kept: nothing can go stale. A service that
has no worker now, or had one lately, exists (NODATA); one that never had is NXDOMAIN. A name that cannot be a label of
DNS has a made one (:func:`label`). dnspython reads and writes the wire.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable
from typing import Final, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdatatype import RdataType

from rumormill.discovery.formats.traffic import Offer, offers, ready_offers, weights_of
from rumormill.discovery.service_view import ALL_SERVICES, ServiceView
from rumormill.discovery.view import RoutingView

MAX_UDP: Final = 1232
"""The largest answer over UDP: what every path carries. Where the caller is on this machine, MAX_LOCAL_UDP."""
MAX_LOCAL_UDP: Final = 8192
SMALLEST_UDP: Final = 512
MAX_TCP: Final = 65535
WEIGHT_STEP: Final = 256
"""HAProxy divides the weight in SRV by 256. So every weight is a multiple, and none becomes 0."""
NORMAL_WEIGHT: Final = 100
MAX_WEIGHT: Final = 255
MAX_CACHED: Final = 1024
"""Answers that are kept until the pool changes, and labels."""
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HEADER: Final = 12

Records = dict[RdataType, list[str]]
"""The records of one name, as text by their type. No records: the name exists, and has none."""


class Found(NamedTuple):
    """What a name has."""

    records: Records
    additional: dict[str, Records]
    """The records of the names that these lead to."""


def label(name: str) -> str:
    """A name as a label of DNS: itself if it is one, or else a readable part of it with a digest of the whole."""
    if _LABEL.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{readable}-{digest}" if readable else digest


class DnsZone:
    """Answers queries about one domain. `view` is called for each query, and returns the present view of the
    pool, or None while it is not settled: queries then fail (SERVFAIL), and are asked elsewhere or again."""

    def __init__(self, domain: str, view: Callable[[], RoutingView | None]) -> None:
        """Raises ValueError if the domain is none."""
        try:
            self._origin = dns.name.from_text(domain)
        except dns.exception.DNSException as error:
            raise ValueError(f"{domain!r} is not a domain: {error}") from None
        self._view = view
        self._cached: dict[bytes, bytes] = {}
        self._cached_view: object = None

    def answer_untrusted(self, query: bytes, *, limit: int) -> bytes | None:
        """The answer of at most `limit` bytes; None for what is not answered at all: no query, or an answer."""
        if len(query) < _HEADER or query[2] & 0x80:
            return None
        view = self._view()
        pool = view and view.pool
        if pool is not self._cached_view or len(self._cached) >= MAX_CACHED:
            self._cached.clear()
            self._cached_view = pool
        key = limit.to_bytes(2, "big") + query[2:]
        rest = self._cached.get(key)
        if rest is None:
            rest = self._cached[key] = self._answer(view, query, limit)[2:]
        return query[:2] + rest

    def _answer(self, view: RoutingView | None, query: bytes, limit: int) -> bytes:
        try:
            asked = dns.message.from_wire(query)
        except (dns.exception.DNSException, ValueError, OverflowError):
            return _format_error(query)
        if asked.opcode() != dns.opcode.QUERY:
            return _refusal(asked, dns.rcode.NOTIMP)
        if len(asked.question) != 1:
            return _refusal(asked, dns.rcode.FORMERR)
        if asked.edns > 0:
            return _refusal(asked, dns.rcode.BADVERS)
        if view is None:
            return _refusal(asked, dns.rcode.SERVFAIL)
        return self._answer_question(view, asked, limit)

    def _answer_question(self, view: RoutingView, asked: dns.message.Message, limit: int) -> bytes:
        question = asked.question[0]
        if question.rdclass != dns.rdataclass.IN or not question.name.is_subdomain(self._origin):
            return _refusal(asked, dns.rcode.REFUSED)
        if question.rdtype in (RdataType.AXFR, RdataType.IXFR):
            return _refusal(asked, dns.rcode.REFUSED)
        answer = dns.message.make_response(asked, our_payload=MAX_UDP)
        answer.flags |= dns.flags.AA
        labels = [part.decode("latin-1").lower() for part in question.name.relativize(self._origin).labels]
        found = self._find(view, labels)
        if found is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            self._fill(answer, question, found)
        if not answer.answer:
            answer.authority.append(_rrset(self._origin, RdataType.SOA, [self._soa(view)]))
        if limit != MAX_TCP:
            limit = min(limit, max(asked.payload, SMALLEST_UDP) if asked.edns >= 0 else SMALLEST_UDP)
        return answer.to_wire(max_size=limit, prefer_truncation=True)

    def _fill(self, answer: dns.message.Message, question: dns.rrset.RRset, found: Found) -> None:
        for kind, values in found.records.items():
            if kind in (question.rdtype, RdataType.CNAME) or question.rdtype == RdataType.ANY:
                answer.answer.append(_rrset(question.name, kind, values))
        if RdataType.SRV in (kind.rdtype for kind in answer.answer):
            for name, records in found.additional.items():
                target = dns.name.from_text(name)
                answer.additional += [_rrset(target, kind, values) for kind, values in records.items()]

    def _find(self, view: RoutingView, labels: list[str]) -> Found | None:
        """What a name below the domain has; None if it does not exist."""
        match labels:
            case []:
                return Found({RdataType.SOA: [self._soa(view)], RdataType.NS: [self._name("ns")]}, {})
            case ["_tcp"]:
                return Found({}, {})
            case [prefixed, "_tcp"] if prefixed.startswith("_"):
                service = self._service(view, prefixed[1:])
                return service.derived(service_srv, self._name(label(service.service))) if service else None
            case [name]:
                service = self._service(view, name)
                return service.derived(service_addresses) if service else None
            case [name, of]:
                service = self._service(view, of)
                return service.derived(worker_records).get(name) if service else None
        return None

    def _service(self, view: RoutingView, name: str) -> ServiceView | None:
        """The service with this label."""
        if view.knows(name) and label(name) == name:
            return view.service(name)
        known = (service for service in view.known_names() if label(service) == name)
        return next((view.service(service) for service in known), None)

    def _name(self, name: str) -> str:
        return f"{name}.{self._origin}" if self._origin != dns.name.root else f"{name}."

    def _soa(self, view: RoutingView) -> str:
        serial = view.index(ALL_SERVICES) % 2**32
        return f"{self._name('ns')} {self._name('hostmaster')} {serial} 1 1 1 0"


def service_srv(view: ServiceView, suffix: str) -> Found:
    """The SRV records of a service. `suffix` is its own name in the zone."""
    offered = view.derived(ready_offers)
    weights = weights_of(offered, normal=NORMAL_WEIGHT, most=MAX_WEIGHT)
    found = Found({RdataType.SRV: []}, {})
    for offer in offered:
        target = f"{label(offer.worker.name)}.{suffix}" if _is_ip(offer.host) else offer.host.rstrip(".") + "."
        weight = WEIGHT_STEP * weights[offer.worker.name]
        found.records[RdataType.SRV].append(f"{int(offer.last_resort)} {weight} {offer.port} {target}")
        if _is_ip(offer.host):
            found.additional[target] = _records([offer])
    return found if offered else Found({}, {})


def service_addresses(view: ServiceView) -> Found:
    """The addresses of the workers that take new work."""
    offered = view.derived(ready_offers)
    heard = [offer for offer in offered if not offer.last_resort]
    return Found(_records([offer for offer in heard or offered if _is_ip(offer.host)]), {})


def worker_records(view: ServiceView) -> dict[str, Found]:
    """What each worker's own name has, by its label. Workers that take no new work have one too."""
    return {label(offer.worker.name): Found(_records([offer]), {}) for offer in view.derived(offers)}


def _records(offered: list[Offer]) -> Records:
    records: Records = {}
    for offer in offered:
        kind = RdataType.CNAME
        if _is_ip(offer.host):
            kind = RdataType.AAAA if ":" in offer.host else RdataType.A
        values = records.setdefault(kind, [])
        value = offer.host if kind is not RdataType.CNAME else offer.host.rstrip(".") + "."
        if value not in values:
            values.append(value)
    return records


def _rrset(name: dns.name.Name, kind: RdataType, values: list[str]) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(name, 0, dns.rdataclass.IN, kind, values)


def _refusal(asked: dns.message.Message, rcode: dns.rcode.Rcode) -> bytes:
    answer = dns.message.make_response(asked, our_payload=MAX_UDP)
    answer.set_rcode(rcode)
    return answer.to_wire()


def _format_error(query: bytes) -> bytes:
    """The header alone: who cannot be read is not quoted."""
    return query[:2] + bytes(((query[2] & 0x79) | 0x80, dns.rcode.FORMERR)) + bytes(8)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
