"""The agent's life: open the sockets, wire the parts together, run until told to go, drain, leave.

SIGTERM, SIGINT and ``POST /v1/leave`` all do the same: say *draining*, give callers ``--drain-time`` (less, where the
worker's process ends before), say goodbye, end with code 0. A second signal ends the process at once, with code 128
plus its number. SIGHUP and ``POST /v1/reload`` have the settings read again.
"""

from __future__ import annotations

import gc
import os
import random
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import msgspec
import trio

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.discovery.server import DiscoveryServer
from rumormill.gossip import Node, ProtocolSettings
from rumormill.gossip.security.credentials import Authority, Credential
from rumormill.gossip.udp.transport import GossipTransport, boot_clock, missing_options
from rumormill.membership.record import Readiness
from rumormill.membership.view import Event
from rumormill.sidecar.commands import SidecarCommands, profile_of
from rumormill.sidecar.errors import NameTaken
from rumormill.sidecar.identity import read_authority, read_identity
from rumormill.sidecar.key_file import KeyFile, key_file_writer, read_key_file
from rumormill.sidecar.line_writer import LineWriter
from rumormill.sidecar.log import Log, monotonic, open_log
from rumormill.sidecar.reload import InForce, Reloader, read_in_force
from rumormill.sidecar.secrets import read_policy_key
from rumormill.sidecar.seeds import SeedResolver
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort
from rumormill.sidecar.shared_worker import SharedWorker
from rumormill.sidecar.snapshot import Remembered, SnapshotIgnored, read_snapshot_untrusted, snapshot_writer
from rumormill.sidecar.sockets import (
    Listener,
    bound_endpoint,
    open_gossip_socket,
    open_http_listeners,
    raise_file_limit,
)
from rumormill.sidecar.tls import CertificateKeeper
from rumormill.sidecar.wall_clock import WallClock
from rumormill.sidecar.worker_check import WorkerCheck
from rumormill.sidecar.worker_process import WorkerProcess, check_process

Names = tuple[Authority | None, Credential | None]
GOING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
GOODBYE_SECONDS = 2.0
"""How long a goodbye may take before the process ends without one."""
WALL_CLOCK_SECONDS = 10.0
"""Between looks at the wall clock while nothing happens."""


def run(read: Callable[[], Settings]) -> None:
    """Run an agent until it has left. ``read`` gives the settings, now and whenever they are to be read again.

    Raises :class:`rumormill.sidecar.AgentError` for what a person can put right.
    """
    for number in GOING_SIGNALS:
        signal.signal(number, _end_now)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the agent hears it: it ends no agent, at no time
    settings = read()
    log, lines = open_log(sys.stderr, member=settings.name)
    raise_file_limit()
    keys = read_key_file(settings.key_file) if settings.key_file else None
    names = _names(settings)
    in_force = read_in_force(settings)
    check_process(settings)
    with open_gossip_socket(settings.gossip, refusals=not settings.no_icmp_evidence) as sock:
        in_force = replace(in_force, settings=_told(settings, sock))
        log.info(
            "bound",
            monotonic=monotonic(),
            gossip=str(HostPort(*sock.getsockname()[:2])),
            advertise=str(in_force.settings.reached_at),
        )
        for lost in missing_options(sock, refusals=not settings.no_icmp_evidence):
            log.warning("kernel", text=lost)
        trio.run(_Agent(in_force, lambda: _told(read(), sock), sock, keys, names, log, lines).main)


def _names(settings: Settings) -> Names:
    """The pool's authority and what it issued to us, where there is one."""
    if settings.ca_file is None or settings.identity_file is None:
        return None, None
    authority = read_authority(settings.ca_file)
    return authority, read_identity(settings.identity_file, settings.name, authority)


def _end_now(number: int, _frame: object) -> NoReturn:
    """What a signal does before the agent runs, and after the first one that asked it to go.

    The kernel's own default would not do: it spares the first process of a container.
    """
    os._exit(128 + number)


def _told(settings: Settings, sock: socket.socket) -> Settings:
    """The settings with the port the kernel chose, where none was chosen by the operator."""
    told = settings.reached_at
    port = told.port or sock.getsockname()[1]
    return msgspec.structs.replace(settings, advertise=HostPort(told.host, port))


class _Agent:
    """Everything of one run, and the order in which it comes and goes."""

    def __init__(
        self,
        in_force: InForce,
        read: Callable[[], Settings],
        sock: socket.socket,
        keys: KeyFile | None,
        names: Names,
        log: Log,
        lines: LineWriter,
    ) -> None:
        self.in_force = in_force
        """As it was at the start; :attr:`reloader` knows what is now."""
        self.settings = settings = in_force.settings
        self.sock = sock
        self.keys = keys
        self.names = names
        self.log = log
        self.lines = lines
        self.wall_clock = WallClock()
        self.certificate = CertificateKeeper(in_force.certificate, log) if in_force.certificate else None
        self.reloader = Reloader(in_force, read=read, apply=self._apply, keys=lambda: self.node.keyring, log=log)
        self.policy_key = read_policy_key(settings.policy_key) if settings.policy_key else None
        self.silent = trio.Event()
        """The node has left, or has stopped."""
        self.going = trio.Event()
        """Somebody or something has asked the agent to go."""
        self.served = trio.Event()
        self.hearing = trio.CancelScope()

    async def main(self) -> None:
        if self.keys is None:
            self.log.warning("plaintext", text="gossip is not sealed: anyone on the network can read and forge it")
        if self.settings.http_insecure and not self.settings.http.local:
            self.log.warning("insecure", text="the endpoint is not protected: anyone on the network can read it")
        listeners = await open_http_listeners(self.settings.http, self.certificate)
        remembered = self._remembered()
        self._wire(remembered)
        # What was imported lives as long as the process. Left among the collector's business, it costs a pause of tens
        # of milliseconds, in which no heartbeat leaves, each time the collector goes over everything.
        gc.freeze()
        async with trio.open_nursery() as nursery:
            for task in (self._gossip, self.contacts.run, self.check.run, self.keeper.run, self.key_keeper.run):
                nursery.start_soon(task)
            for task in (
                self.worker_process.run,
                self.reloader.hear_signals,
                self.reloader.run,
                self._watch_wall_clock,
            ):
                nursery.start_soon(task)
            if self.certificate is not None:
                nursery.start_soon(self.certificate.run)
            nursery.start_soon(SharedWorker(self.node, self.companion.worker_shared).run)
            await nursery.start(self._hear_signals)
            await nursery.start(self._serve, listeners)
            await self.going.wait()
            self.hearing.cancel()
            if not self.silent.is_set():
                await self._depart()
            await self._close()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keeper.write_last)
            nursery.start_soon(self.key_keeper.write_last)
        if self.node.stopped:
            raise NameTaken(self.node.stopped, "rumormill members, asked of any sidecar of the pool, shows who has it")
        self.log.info("ended")

    def _wire(self, remembered: Remembered) -> None:
        settings = self.settings
        rng = random.Random(secrets.randbits(128))
        process = secrets.token_hex(8)
        self.node = self._new_node(rng, remembered)
        self.transport = GossipTransport(self.node, self.sock, on_change=self._on_change, on_events=self._on_events)
        self.companion = SidecarCommands(
            settings,
            node=self.node,
            transport=self.transport,
            key_file_trouble=lambda: self.key_keeper.trouble,
            process=process,
            log=self.log,
            going=self.going,
            counters=self._counters,
            reloader=self.reloader,
            certificate=self.certificate,
            worker_process=lambda: self.worker_process.about,
        )
        self.server = DiscoveryServer(
            commands=self.companion,
            process=process,
            wall_offset=self.wall_clock.offset,
            access=self.in_force.access,
            sealed=self.keys is not None,
            rng=rng,
        )
        self.check = WorkerCheck(
            settings.worker,
            settings.worker_check,
            period=settings.worker_check_period,
            timeout=settings.worker_check_timeout,
            on_change=self.companion.worker_is,
            on_failure=self.companion.worker_failed,
            on_miss=self.companion.check_missed,
        )
        self.worker_process = WorkerProcess(
            (settings.worker_pid, settings.worker_pid_file),
            on_start=self.check.process_started,
            on_end=self.check.process_ended,
            on_event=lambda text: self._on_events([Event(boot_clock(), "process", settings.name, text)]),
        )
        self._wire_memory(rng, remembered)

    def _apply(self, new: InForce) -> None:
        """Put new settings into force, where they can change."""
        self.settings = settings = new.settings
        self.check.configure(
            settings.worker,
            settings.worker_check,
            period=settings.worker_check_period,
            timeout=settings.worker_check_timeout,
        )
        self.worker_process.follow((settings.worker_pid, settings.worker_pid_file))
        self.server.admit(new.access)
        if self.certificate is not None and new.certificate is not None:
            self.certificate.replace(new.certificate)
        self.companion.reconfigure(settings)

    def _counters(self) -> dict[str, int]:
        http = {f"http_{name}": value for name, value in self.server.counters.items()}
        return {**self.transport.counters, **http, "log_lines_dropped": self.lines.dropped}

    def _new_node(self, rng: random.Random, remembered: Remembered) -> Node:
        settings = self.settings
        return Node(
            policy_schema=POLICY_SCHEMA,
            name=settings.name,
            address=(settings.reached_at.host, settings.reached_at.port),
            cluster=settings.cluster,
            profile=profile_of(settings, Readiness.STARTING),
            keyring=self.keys.ring if self.keys else None,
            key_version=self.keys.version if self.keys else 0,
            authority=self.names[0],
            credential=self.names[1],
            rng=rng,
            token_bytes=os.urandom,
            now=boot_clock(),
            settings=ProtocolSettings(
                period=settings.period,
                icmp_evidence=not settings.no_icmp_evidence,
                probation=settings.probation,
            ),
            policy_key=self.policy_key,
            policies=remembered.policies,
            generation=remembered.generation + 1,
        )

    def _wire_memory(self, rng: random.Random, remembered: Remembered) -> None:
        settings, node = self.settings, self.node
        self.contacts = SeedResolver(
            settings.join,
            remembered.addresses,
            family=self.sock.family,
            loopback=settings.gossip.loopback,
            rng=rng,
            set_seeds=node.set_seeds,
            joined=lambda: node.joined,
            on_trouble=lambda seed, why: self.log.warning("join", seed=str(seed), trouble=why),
        )
        self.keeper = snapshot_writer(
            settings.snapshot,
            settings.name,
            settings.cluster,
            lambda: (node.generation, node.addresses(), node.policies),
            remembered.addresses,
            self._warn,
        )
        self.keys_held = self._key_content()  # what the keeper last heard of: few events are about keys
        self.key_keeper = key_file_writer(
            settings.key_file, self._key_content, self._warn_of_keys, self._key_file_written
        )

    def _remembered(self) -> Remembered:
        settings = self.settings
        if settings.snapshot is None:
            return Remembered()
        try:
            return read_snapshot_untrusted(settings.snapshot, settings.name, settings.cluster)
        except SnapshotIgnored as error:
            self._warn(f"{settings.snapshot} {error}; starting without it")
            return Remembered()

    def _key_content(self) -> KeyFile | None:
        ring = self.node.keyring
        return KeyFile(ring, self.node.key_version) if ring else None

    def _warn_of_keys(self, trouble: str) -> None:
        self.log.error("key file", trouble=trouble)

    def _key_file_written(self, file: KeyFile) -> None:
        self.log.info("key file", version=file.version, keys=list(file.ring.names))

    def _warn(self, trouble: str) -> None:
        self.log.warning("snapshot", trouble=trouble)

    def _on_change(self) -> None:
        self.server.pool_changed()
        self.companion.hear_policy(self.node.policy_records)
        self.keeper.changed()

    def _look_at_wall_clock(self) -> None:
        """Have events carry the time that the log does, also after somebody has set the clock."""
        if moved := self.wall_clock.moved():
            self.log.info("clock", text=f"the wall clock was set by {moved:+.1f} s")
            self.server.set_wall_offset(self.wall_clock.offset)

    async def _watch_wall_clock(self) -> None:
        while True:
            await trio.sleep(WALL_CLOCK_SECONDS)
            self._look_at_wall_clock()

    def _on_events(self, events: Sequence[Event]) -> None:
        self._look_at_wall_clock()
        self.server.publish_events(events)
        if (keys := self._key_content()) != self.keys_held:
            self.keys_held = keys
            self.key_keeper.changed()
        for event in events:
            log = self.log.warning if event.kind == "period" else self.log.info
            log(event.kind, monotonic=monotonic(), who=event.member, text=event.text)

    async def _gossip(self) -> None:
        await self.transport.run()
        self.silent.set()
        self.going.set()

    async def _serve(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.log.info("serving", monotonic=monotonic(), http=str(bound_endpoint(listeners[0])))
        await self.server.serve(listeners, task_status=task_status)
        self.served.set()

    async def _hear_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The first signal asks the agent to go. After it, or when the agent goes anyway, a signal ends it now."""
        with self.hearing, trio.open_signal_receiver(*GOING_SIGNALS) as signals:
            task_status.started()
            number = await anext(signals)
            self.log.info("signal", signal=signal.Signals(number).name)
            self.going.set()

    async def _depart(self) -> None:
        """Drain, then say goodbye, and wait until it has been said."""
        self.companion.drain()
        with trio.move_on_after(self.settings.drain_time):
            await self.check.wait_gone()
        self.node.leave(boot_clock())
        self.transport.poke()
        with trio.move_on_after(GOODBYE_SECONDS) as goodbye:
            await self.silent.wait()
        if goodbye.cancelled_caught:
            self.log.warning("goodbye was not said in time")

    async def _close(self) -> None:
        self.server.close()
        with trio.move_on_after(GOODBYE_SECONDS):
            await self.served.wait()
        if (path := self.settings.http.path) is not None:
            path.unlink(missing_ok=True)
