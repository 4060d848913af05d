"""Faults on the processes of a pool of our own, on this machine.

| fault | what is done | undone by |
|---|---|---|
| kill | SIGKILL to the sidecar and its worker | starting both again, on the same addresses |
| restart | SIGTERM: the sidecar drains and leaves, then the worker ends | starting both again |
| freeze | SIGSTOP to both | SIGCONT |
| slow | SIGSTOP and SIGCONT to the worker in turns, 20 times a second | SIGCONT |
| cut, lose | an nft rule drops all or a share of the packets from and to its ports, on input | deleting the rules |
| fill | a file takes the free space of a file system | deleting the file |
| skew | libfaketime sets the wall clock of both ahead | setting it back |

Rules and files outlive this process, so they stand in the journal. Processes do not: the pool's reaper ends them.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio

from rumormill.cli.chaos.journal import Journal, RemoveFile, RemoveRules
from rumormill.cli.chaos.schedule import ByteSize, FaultSpec
from rumormill.cli.demo.processes import LocalMember, LocalPool
from rumormill.cli.exit_codes import BadRequest

SLICE_SECONDS = 0.05
"""One turn of a slowed worker: a part of it stopped, the rest running."""
SMALLEST_BLOCK = 4096
CLOCK_LIBRARIES = "/usr/lib/*/faketime/libfaketime.so.1"
UNTOUCHED = "+0"
"""What libfaketime reads for the true time."""


class LocalFaults:
    """What can be done to the members of this pool."""

    def __init__(self, pool: LocalPool, journal: Journal) -> None:
        self._pool = pool
        self._journal = journal

    @property
    def members(self) -> list[str]:
        return list(self._pool.members)

    def prepare(self, specs: Iterable[FaultSpec]) -> None:
        """Check that every fault can be done, before the first. Raises :class:`BadRequest`."""
        specs = tuple(specs)
        kinds = {spec.kind for spec in specs}
        if {"cut", "lose"} & kinds:
            check_nft()
        for spec in specs:
            if spec.kind == "fill":
                _free_space(self._folder(spec), spec.at_most)
        if "skew" in kinds:
            self._make_clocks()

    def inject(self, spec: FaultSpec, member: str) -> AbstractAsyncContextManager[None]:
        """Does the fault at the start of the block, and undoes it at its end."""
        target = self._pool[member]
        match spec.kind:
            case "kill":
                return self._killed(target)
            case "restart":
                return self._restarted(target)
            case "freeze":
                return self._frozen(target)
            case "slow":
                return self._slowed(target, spec.share)
            case "cut":
                return self._dropping(target, "")
            case "lose":
                return self._dropping(target, f"numgen random mod 1000 < {round(spec.share * 1000)} ")
            case "fill":
                return self._filled(self._folder(spec), spec.at_most)
            case "skew":
                return self._skewed(target, spec.offset)

    def _folder(self, spec: FaultSpec) -> Path:
        return spec.path or self._pool.directory

    @asynccontextmanager
    async def _killed(self, member: LocalMember) -> AsyncIterator[None]:
        member.kill()
        try:
            yield
        finally:
            member.start()

    @asynccontextmanager
    async def _restarted(self, member: LocalMember) -> AsyncIterator[None]:
        try:
            for program in (member.sidecar, member.worker):
                program.signal(signal.SIGTERM)
                await trio.to_thread.run_sync(program.wait, abandon_on_cancel=True)
            yield
        finally:
            member.kill()
            member.start()

    @asynccontextmanager
    async def _frozen(self, member: LocalMember) -> AsyncIterator[None]:
        member.freeze()
        try:
            yield
        finally:
            member.thaw()

    @asynccontextmanager
    async def _slowed(self, member: LocalMember, stopped: float) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_alternate, member, stopped)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _dropping(self, member: LocalMember, which: str) -> AsyncIterator[None]:
        table = f"rumormill_chaos_{os.getpid()}_{secrets.token_hex(3)}"
        async with self._journal.undone_after(RemoveRules(table)):
            _nft(_drop_rules(table, (member.worker_port, member.sidecar_port), which))
            yield

    @asynccontextmanager
    async def _filled(self, folder: Path, at_most: ByteSize) -> AsyncIterator[None]:
        path = folder.resolve() / f"rumormill-chaos-{secrets.token_hex(4)}.fill"
        async with self._journal.undone_after(RemoveFile(str(path))):
            await trio.to_thread.run_sync(_fill, path, _free_space(folder, at_most))
            yield

    @asynccontextmanager
    async def _skewed(self, member: LocalMember, offset: float) -> AsyncIterator[None]:
        clock = self._clock(member)
        _set_clock(clock, f"+{offset:g}")
        try:
            yield
        finally:
            _set_clock(clock, UNTOUCHED)

    def _clock(self, member: LocalMember) -> Path:
        return self._pool.directory / f"{member.name}.clock"

    def _make_clocks(self) -> None:
        """Have the programs of each member read the wall clock through libfaketime, and no other clock."""
        library = next(iter(sorted(Path("/").glob(CLOCK_LIBRARIES.lstrip("/")))), None)
        if library is None:
            raise BadRequest("skew needs libfaketime", "apt-get install -y faketime")
        for member in self._pool:
            _set_clock(self._clock(member), UNTOUCHED)
            for program in (member.worker, member.sidecar):
                program.env |= {
                    "LD_PRELOAD": str(library),
                    "FAKETIME_TIMESTAMP_FILE": str(self._clock(member)),
                    "FAKETIME_NO_CACHE": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                }


async def _alternate(member: LocalMember, stopped: float) -> None:
    try:
        while True:
            member.worker.signal(signal.SIGSTOP)
            await trio.sleep(SLICE_SECONDS * stopped)
            member.worker.signal(signal.SIGCONT)
            await trio.sleep(SLICE_SECONDS * (1 - stopped))
    finally:
        member.worker.signal(signal.SIGCONT)


def _drop_rules(table: str, ports: tuple[int, int], which: str) -> str:
    """Rules for loopback alone. On input, so that no sender sees an error."""
    numbers = ", ".join(map(str, ports))
    rules = "\n".join(f"meta l4proto {{ tcp, udp }} th {end} {{ {numbers} }} {which}drop" for end in ("dport", "sport"))
    chain = f'type filter hook input priority 0\niifname != "lo" accept\n{rules}'
    return f"table inet {table} {{\n chain input {{\n{chain}\n }}\n}}\n"


def check_nft() -> None:
    """Raises :class:`BadRequest` where no network rules can be set."""
    if shutil.which("nft") is None:
        raise BadRequest("cut and lose need nft", "apt-get install -y nftables")
    if os.geteuid() != 0:
        raise BadRequest(
            "cut and lose need root, for they set network rules",
            "run it as root, or in a network of its own: unshare --map-root-user --net, then `ip link set lo up`",
        )
    _nft("list tables")


def _nft(rules: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode:
        raise BadRequest(f"nft: {done.stderr.strip()}", "cut and lose need a kernel with nftables")


def _free_space(folder: Path, at_most: ByteSize) -> int:
    """Bytes. Raises :class:`BadRequest` if that is more than may be taken: this fills small file systems only."""
    try:
        found = os.statvfs(folder)
    except OSError as error:
        raise BadRequest(
            f"cannot fill {folder}: {error.strerror}", "give a folder of the file system as `path`"
        ) from None
    free = found.f_bfree * found.f_frsize
    if free > at_most:
        raise BadRequest(
            f"the file system of {folder} has {free / 1e9:.1f} GB free, more than at_most = {at_most / 1e9:g} GB",
            "give the pool a small one: mount -t tmpfs -o size=16m none DIR; TMPDIR=DIR rumormill chaos run ...",
        )
    return free


def _fill(path: Path, free: int) -> None:
    """Take the space in ever smaller blocks, until not even the smallest is left."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        size, block = 0, max(free, SMALLEST_BLOCK)
        while block >= SMALLEST_BLOCK:
            try:
                os.posix_fallocate(descriptor, size, block)
                size += block
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise BadRequest(f"cannot fill {path.parent}: {error.strerror}", "give another `path`") from None
                block //= 2
    finally:
        os.close(descriptor)


def _set_clock(path: Path, offset: str) -> None:
    """Replaced whole: a clock must not be read half-written."""
    new = path.with_suffix(".new")
    new.write_text(offset)
    new.replace(path)
