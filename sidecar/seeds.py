"""Where the members to join are: names, resolved again for ever.

Resolving once is how a pool that restarts as a whole ends as many pools of one. A name that fails to resolve keeps the
addresses it last had, so a DNS that is down takes nobody out. While nobody has been joined a name is asked for after
half a second, then ever less often, at last every 30 s.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence

import trio

from rumormill.membership.record import Address
from rumormill.sidecar.settings_values import HostPort

SILENCE = 5.0
"""Seconds after which a start without any answer is worth a line in the log."""
RESOLVE_SOON = 0.5
RESOLVE_LATER = 30.0
MAX_ADDRESSES = 64
"""Addresses taken of one name: a headless service of a large pool has more than anybody needs."""


class SeedResolver:
    """Keeps a Node told where its seeds are, and where the members it remembers from an earlier life were."""

    def __init__(
        self,
        seeds: Sequence[HostPort],
        remembered: Sequence[Address],
        *,
        family: socket.AddressFamily,
        loopback: bool,
        rng: random.Random,
        set_seeds: Callable[[Sequence[Address]], None],
        joined: Callable[[], bool],
        on_trouble: Callable[[HostPort, str], None],
    ) -> None:
        """``loopback``: the socket is bound to a loopback address, which reaches this machine only."""
        self._found: dict[HostPort, tuple[Address, ...]] = {seed: _literal(seed) for seed in seeds}
        self._remembered = tuple(remembered)
        self._family = family
        self._loopback = loopback
        self._rng = rng
        self._set_contacts = set_seeds
        self._joined = joined
        self._on_trouble = on_trouble
        self._tell()

    def _tell(self) -> None:
        everyone = [address for found in self._found.values() for address in found]
        self._set_contacts(list(dict.fromkeys([*everyone, *self._remembered])))

    async def run(self) -> None:
        """Resolve every name, again and again; never returns while there is a name among the seeds."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notice_silence)
            for seed in self._found:
                if not _literal(seed):
                    nursery.start_soon(self._follow, seed)

    async def _notice_silence(self) -> None:
        """Starting alone is fine; a seed that drops what we seal looks just the same, so say it once."""
        await trio.sleep(SILENCE)
        if self._found and not self._joined():
            seed = next(iter(self._found))
            self._on_trouble(
                seed, "no seed has answered yet: is one up, with this --cluster and a key of this --key-file?"
            )

    async def _follow(self, seed: HostPort) -> None:
        delay, trouble = RESOLVE_SOON, ""
        while True:
            found, problem = await self._resolve(seed)
            if found and found != self._found[seed]:
                self._found[seed] = found
                self._tell()
            problem = problem or self._out_of_reach(found)
            if problem and problem != trouble:
                self._on_trouble(seed, problem)
            trouble = problem
            await trio.sleep(delay * self._rng.uniform(0.75, 1.25))
            delay = RESOLVE_LATER if self._joined() else min(delay * 1.5, RESOLVE_LATER)

    def _out_of_reach(self, found: tuple[Address, ...]) -> str:
        if not self._loopback or any(
            e.loopback or e.of_this_machine for e in (HostPort(*address) for address in found)
        ):
            return ""
        host = found[0][0]
        return f"it is {host}, and --gossip is loopback, which reaches this machine only: give --gossip another address"

    async def _resolve(self, seed: HostPort) -> tuple[tuple[Address, ...], str]:
        try:
            answers = await trio.socket.getaddrinfo(seed.host, seed.port, self._family, socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            return (), getattr(error, "strerror", None) or str(error)
        return tuple(dict.fromkeys((str(a[4][0]), int(a[4][1])) for a in answers))[:MAX_ADDRESSES], ""


def _literal(seed: HostPort) -> tuple[Address, ...]:
    return () if seed.ip is None else ((str(seed.ip), seed.port),)
