"""No format can go stale: in virtual time each is right within a second of a death, and of a healed cut of 60 s."""

from __future__ import annotations

from dataclasses import replace

import dns.message
import msgspec
import pytest
from dns.rdatatype import RdataType

from rumormill.discovery.formats import consul, envoy, haproxy, plain_text, prometheus, traefik
from rumormill.discovery.formats.dns_zone import MAX_TCP, DnsZone
from rumormill.discovery.view import ALL_SERVICES, RoutingView
from rumormill.gossip import Node
from rumormill.simulations import World

SOON = 1.0
"""Seconds of virtual time."""


class Sidecar:
    """What one simulated member answers in each format: the names of the workers offered."""

    def __init__(self, world: World, key: str) -> None:
        node = world.node(key)
        assert isinstance(node, Node)
        self.node = node
        self.view = RoutingView(process=key, wall_offset=0.0)
        self.zone = DnsZone("rumormill", lambda: self.view)

    def offered(self) -> dict[str, set[str]]:
        pool = self.node.view  # whose workers have host names, which Envoy does not take
        members = [replace(member, url=f"http://10.0.0.{member.name[1:]}:9001") for member in pool.members]
        self.view.update(replace(pool, members=tuple(members)))
        (service,) = self.view.names()
        view = self.view.service(service)
        names = {worker.url: worker.name for worker in view.workers}
        groups = msgspec.json.decode(prometheus.targets(view).body)
        rows = msgspec.json.decode(consul.health_service(view, passing=True).body)
        localities = msgspec.json.decode(envoy.endpoints(view).body)["endpoints"]
        endpoints = [
            one["metadata"]["filter_metadata"]["envoy.lb"] for group in localities for one in group["lb_endpoints"]
        ]
        balancer = msgspec.json.decode(traefik.configuration([view]).body)["http"]["services"][service]["loadBalancer"]
        checks = {name: line for name, line in view.derived(haproxy.answers).items() if line.startswith(b"up ready")}
        return {
            "text": {names[url] for url in plain_text.url_list(view, ready=True).body.decode().split()},
            "prometheus": {group["labels"]["__meta_rumormill_name"] for group in groups},
            "consul": {row["Node"]["Node"] for row in rows},
            "envoy": {endpoint["name"] for endpoint in endpoints},
            "traefik": {names[server["url"]] for server in balancer["servers"]},
            "haproxy": set(checks),
            "dns": self._srv(service),
        }

    def _srv(self, service: str) -> set[str]:
        query = dns.message.make_query(f"_{service}._tcp.rumormill.", "SRV")
        wire = self.zone.answer_untrusted(query.to_wire(), limit=MAX_TCP)
        assert wire is not None
        answer = dns.message.from_wire(wire).get_rrset(
            "ANSWER", query.question[0].name, query.question[0].rdclass, RdataType.SRV
        )
        return {record.target.to_text().partition(".")[0] for record in answer} if answer else set()


def settled(seed: int) -> World:
    world = World(seed=seed)
    world.start(6)
    assert world.run_until(world.one_view, within=3.0) is not None
    world.run(2.0)
    return world


def all_offer(sidecars: list[Sidecar], names: set[str]) -> bool:
    return all(offered == names for sidecar in sidecars for offered in sidecar.offered().values())


@pytest.mark.parametrize("seed", range(3))
def test_within_a_second_of_a_death_no_format_names_the_worker(seed: int) -> None:
    world = settled(seed)
    keys = list(world.hosts)
    sidecars = [Sidecar(world, key) for key in keys[1:]]
    assert all_offer(sidecars, set(keys))
    world.crash(keys[0])
    assert world.run_until(lambda: all_offer(sidecars, set(keys[1:])), within=SOON, every=0.05) is not None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("minority", [1, 2, 3])
def test_within_a_second_of_a_healed_cut_each_format_is_that_of_one_pool_again(minority: int, seed: int) -> None:
    world = settled(seed)
    keys = list(world.hosts)
    sidecars = [Sidecar(world, key) for key in keys]
    world.cut(set(keys[:minority]))
    world.run(60.0)
    world.heal()
    assert world.run_until(lambda: all_offer(sidecars, set(keys)), within=SOON, every=0.05) is not None


def test_while_cut_off_a_sidecar_offers_its_own_side_first_and_the_others_as_a_last_resort() -> None:
    world = settled(0)
    keys = list(world.hosts)
    cut_off, majority = Sidecar(world, keys[0]), Sidecar(world, keys[5])
    world.cut({keys[0]})
    world.run(5.0)
    offered = cut_off.offered()
    assert offered["consul"] == offered["traefik"] == {keys[0]}
    for name in ("text", "envoy", "haproxy", "dns", "prometheus"):
        assert offered[name] == set(keys), name
    view = cut_off.view.service(cut_off.view.names()[0])
    assert cut_off.view.service(ALL_SERVICES).isolated
    assert plain_text.url_list(view, ready=True).body.startswith(view.workers[0].url.encode())
    assert set(view.derived(haproxy.answers).values()) == {haproxy.LAST_RESORT, b"up ready 10000%\n"}
    assert all(names == set(keys[1:]) for names in majority.offered().values())
