"""Resolves the names of the seeds (the members to join) again and again.

If names were resolved only once, a pool that restarts as a whole with new addresses would end as many pools of one. A
name that fails to resolve keeps its last addresses, so a DNS outage removes no seed. Until a member has been joined, a
name is resolved again after 0.5 s, then less and less often, and finally every 30 s.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence

import trio

from rumormill.membership.record import Address
from rumormill.sidecar.settings_values import HostPort

FIRST_CONTACT_SECONDS = 5.0
"""Seconds after the start at which a missing answer of all seeds is logged."""
FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 30.0
MAX_ADDRESSES = 64
"""Addresses used of one name. The headless service of a large pool has more than are needed."""


class SeedResolver:
    """Gives a Node the current addresses of its seeds, and the addresses restored from the snapshot."""

    def __init__(
        self,
        seeds: Sequence[HostPort],
        restored: Sequence[Address],
        *,
        family: socket.AddressFamily,
        loopback: bool,
        rng: random.Random,
        set_seeds: Callable[[Sequence[Address]], None],
        joined: Callable[[], bool],
        on_trouble: Callable[[HostPort, str], None],
    ) -> None:
        """``loopback``: the socket is bound to a loopback address, so it reaches only this machine."""
        self._resolved: dict[HostPort, tuple[Address, ...]] = {seed: _literal(seed) for seed in seeds}
        self._restored = tuple(restored)
        self._family = family
        self._loopback = loopback
        self._rng = rng
        self._set_contacts = set_seeds
        self._joined = joined
        self._on_trouble = on_trouble
        self._publish()

    def _publish(self) -> None:
        everyone = [address for found in self._resolved.values() for address in found]
        self._set_contacts(list(dict.fromkeys([*everyone, *self._restored])))

    async def run(self) -> None:
        """Resolve every name, again and again. Never returns if one of the seeds is a name."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._warn_if_unanswered)
            for seed in self._resolved:
                if not _literal(seed):
                    nursery.start_soon(self._keep_resolving, seed)

    async def _warn_if_unanswered(self) -> None:
        """Log once that no seed has answered. Starting alone is fine, but a seed that cannot open our datagrams looks
        just the same."""
        await trio.sleep(FIRST_CONTACT_SECONDS)
        if self._resolved and not self._joined():
            seed = next(iter(self._resolved))
            self._on_trouble(
                seed,
                "no seed has answered yet: check that one runs, with the same --cluster and a key of this --key-file",
            )

    async def _keep_resolving(self, seed: HostPort) -> None:
        delay, trouble = FIRST_RETRY_SECONDS, ""
        while True:
            found, problem = await self._resolve(seed)
            if found and found != self._resolved[seed]:
                self._resolved[seed] = found
                self._publish()
            problem = problem or self._unreachable_hint(found)
            if problem and problem != trouble:
                self._on_trouble(seed, problem)
            trouble = problem
            await trio.sleep(delay * self._rng.uniform(0.75, 1.25))
            delay = MAX_RETRY_SECONDS if self._joined() else min(delay * 1.5, MAX_RETRY_SECONDS)

    def _unreachable_hint(self, found: tuple[Address, ...]) -> str:
        if not self._loopback or any(
            e.loopback or e.of_this_machine for e in (HostPort(*address) for address in found)
        ):
            return ""
        host = found[0][0]
        return f"it resolves to {host}, but --gossip is a loopback address, which reaches only this machine"

    async def _resolve(self, seed: HostPort) -> tuple[tuple[Address, ...], str]:
        try:
            answers = await trio.socket.getaddrinfo(seed.host, seed.port, self._family, socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            return (), getattr(error, "strerror", None) or str(error)
        return tuple(dict.fromkeys((str(a[4][0]), int(a[4][1])) for a in answers))[:MAX_ADDRESSES], ""


def _literal(seed: HostPort) -> tuple[Address, ...]:
    return () if seed.ip is None else ((str(seed.ip), seed.port),)
