"""Is gossip sealed, and is the endpoint protected?"""

from __future__ import annotations

from collections.abc import Iterator

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem, warning

DO = "make a key (rumormill keys generate --out FILE), give it to every member with --key-file, and restart them"


def check(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings
    if not settings.insecure_plaintext:
        yield ok("gossip is sealed")
    elif settings.gossip.loopback:
        yield warning("gossip is plaintext: anyone on this machine can change the pool", DO)
    else:
        yield problem("gossip is plaintext on a network: anyone who reaches its port can change the pool", DO)
    if settings.http_insecure and not settings.http.local:
        yield problem(
            f"anyone who reaches {settings.http} can read the pool",
            "replace --http-insecure by --http-token-file, or by --http-cert, --http-key and --http-ca",
        )
