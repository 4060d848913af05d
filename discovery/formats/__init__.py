"""The pool in the formats of programs that people already run. Pure: a service's view in, bytes out.

    traffic      what each worker is to get of the new work: the part that all formats share
    plain_text   a URL a line
    prometheus   targets for http_sd
    consul       Consul's HTTP API: health, catalog, agent
    envoy        REST xDS v3: endpoints, clusters, listeners
    traefik      dynamic configuration for its HTTP provider
    haproxy      the answers to HAProxy's agent check
    dns_zone     DNS: SRV, A and AAAA; the only one that needs dnspython

Each format is made once per change, at the first asking (ServiceView.derived). All follow the same rules:

- Only workers that take new work are offered for traffic. A format that shows the others says that they are not ready.
- Suspects come last. If a format can only offer or not offer, they are offered where there is nobody else.
- Weights are the parts of the new work that the ring and the traffic split give (traffic.py).
"""

from __future__ import annotations

from typing import Final, Literal, get_args

FormatName = Literal["text", "prometheus", "consul", "envoy", "traefik"]
FORMAT_NAMES: Final[tuple[FormatName, ...]] = get_args(FormatName)
