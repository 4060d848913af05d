"""The agent from start to end: open the sockets, build the parts, run, drain, leave.

SIGTERM, SIGINT and ``POST /v1/leave`` do the same. The agent announces *draining*, waits ``--drain-time`` (less if the
worker's process ends earlier), leaves the pool, and exits with code 0. A second signal ends the process at once, with
code 128 plus the signal number. SIGHUP and ``POST /v1/reload`` make the agent read its settings again.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn

import trio

import rumormill.sidecar.log  # noqa: F401  must be first: it hides rich from structlog

# isort: split
from rumormill.discovery.server import DiscoveryServer
from rumormill.gossip.udp.transport import GossipTransport, boot_clock, missing_options
from rumormill.membership.record import Readiness
from rumormill.membership.view import Event
from rumormill.sidecar.commands import SidecarCommands, StatusSources
from rumormill.sidecar.errors import NameTaken
from rumormill.sidecar.format_listeners import FormatListeners
from rumormill.sidecar.garbage import collect_with_few_callers, hold_full_collections
from rumormill.sidecar.gpus import GpuWatch
from rumormill.sidecar.health.plan import plan_of
from rumormill.sidecar.health.worker_check import WorkerCheck
from rumormill.sidecar.identity import PoolCredentials, read_credentials
from rumormill.sidecar.incident_records import incident_records
from rumormill.sidecar.key_file import KeyFile, key_file_writer, read_key_file
from rumormill.sidecar.line_writer import LineWriter
from rumormill.sidecar.log import Log, monotonic, open_log, set_log_level
from rumormill.sidecar.new_node import new_node
from rumormill.sidecar.profile import reachable_endpoint
from rumormill.sidecar.reload import Reloader, RuntimeConfig, left_out_probe, read_runtime_config
from rumormill.sidecar.secrets import read_policy_key
from rumormill.sidecar.seeds import SeedResolver
from rumormill.sidecar.service_manager import ServiceManager
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort
from rumormill.sidecar.shared_worker import SharedWorkerWatcher
from rumormill.sidecar.snapshot import RestoredState, read_snapshot_or_start_empty, snapshot_writer
from rumormill.sidecar.sockets import (
    Listener,
    bound_endpoint,
    open_gossip_socket,
    open_http_listeners,
    raise_file_limit,
    with_bound_port,
)
from rumormill.sidecar.state_commands import StateCommands
from rumormill.sidecar.tls import CertificateReloader
from rumormill.sidecar.wall_clock import WallClock
from rumormill.sidecar.worker_process import ProcessSource, WorkerProcess, check_worker_pid

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LEAVE_TIMEOUT = 2.0
"""Seconds to wait for the leave message to go out before the process ends without it."""
CLOCK_CHECK_SECONDS = 10.0
"""Seconds between checks of the wall clock. Every event checks it too."""


def run(read: Callable[[], Settings]) -> None:
    """Run an agent until it has left the pool. ``read`` returns the settings; it is called again at each reload.

    Raises :class:`rumormill.sidecar.AgentError` for errors that an operator can fix.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, _exit_at_once)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # SIGHUP must never end an agent, even before it is handled
    settings = read()
    log, log_writer = open_log(sys.stderr, settings)
    raise_file_limit()
    keys = read_key_file(settings.key_file) if settings.key_file else None
    credentials = read_credentials(settings)
    config = read_runtime_config(settings)
    check_worker_pid(settings)
    with open_gossip_socket(settings.gossip, refusals=not settings.no_icmp_evidence) as sock:
        config = replace(config, settings=with_bound_port(settings, sock))
        log.info(
            "bound",
            monotonic=monotonic(),
            gossip=str(HostPort(*sock.getsockname()[:2])),
            advertise=str(config.settings.advertised_address),
        )
        for lost in missing_options(sock, refusals=not settings.no_icmp_evidence):
            log.warning("kernel", text=lost)
        trio.run(_Agent(config, lambda: with_bound_port(read(), sock), sock, keys, credentials, log, log_writer).main)


def _exit_at_once(number: int, _frame: object) -> NoReturn:
    """Handles a signal before the agent runs, and any signal after the first stop signal.

    The kernel's default action is not enough: it does not end process 1 of a container.
    """
    os._exit(128 + number)


class _Agent:
    """The parts of one agent, and the order in which they start and stop."""

    def __init__(
        self,
        config: RuntimeConfig,
        read: Callable[[], Settings],
        sock: socket.socket,
        keys: KeyFile | None,
        credentials: PoolCredentials,
        log: Log,
        log_writer: LineWriter,
    ) -> None:
        self.config = config
        """As it was at the start. :attr:`reloader` has the current one."""
        self.settings = settings = config.settings
        self.sock = sock
        self.keys = keys
        self.credentials = credentials
        self.log = log
        self.log_writer = log_writer
        self.gpus = GpuWatch(lambda text: log.info("gpus", text=text))
        self.wall_clock = WallClock()
        self.certificate = CertificateReloader(config.certificate, log) if config.certificate else None
        self.reloader = Reloader(config, read=read, apply=self._apply, keys=lambda: self.node.keyring, log=log)
        self.policy_key = read_policy_key(settings.policy_key) if settings.policy_key else None
        self.gossip_stopped = trio.Event()
        """Set when the node has left or stopped."""
        self.stop_requested = trio.Event()
        """Set by a signal, by ``POST /v1/leave``, or when the node stops by itself."""
        self.endpoint_closed = trio.Event()
        self.signal_scope = trio.CancelScope()

    async def main(self) -> None:
        if self.keys is None:
            self.log.warning("plaintext", text="gossip is not sealed: anyone on the network can read and forge it")
        if self.settings.http_insecure and not self.settings.http.local:
            self.log.warning("insecure", text="the endpoint is not protected: anyone on the network can read it")
        if text := left_out_probe(self.config):
            self.log.warning("probe", text=text)
        listeners = await open_http_listeners(self.settings.http, self.certificate)
        self.formats = await FormatListeners.open(self.settings)
        restored = read_snapshot_or_start_empty(self.settings, self._log_snapshot_trouble)
        self._build_parts(restored)
        self.service_manager = ServiceManager.of(os.environ, self.commands.status, lambda: self.transport.turns)
        self.commands.endpoint = reachable_endpoint(self.settings, bound_endpoint(listeners[0]))
        hold_full_collections()
        async with trio.open_nursery() as nursery:
            for task in self._background_tasks():
                nursery.start_soon(task)
            await nursery.start(self._wait_for_signal)
            await nursery.start(self._serve, listeners)
            nursery.start_soon(self.formats.serve, self.server)
            await self.stop_requested.wait()
            self.signal_scope.cancel()
            if not self.gossip_stopped.is_set():
                await self._drain_and_leave()
            await self._close_endpoint()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.snapshot_writer.write_final)
            nursery.start_soon(self.key_file_writer.write_final)
        if self.node.stopped:
            raise NameTaken(
                self.node.stopped, "run `rumormill members` against another sidecar to see who has the name"
            )
        self.log.info("ended")

    def _background_tasks(self) -> list[Callable[[], Awaitable[None]]]:
        """What runs beside the endpoint until the agent ends."""
        tasks: list[Callable[[], Awaitable[None]]] = [
            self._gossip,
            self.seed_resolver.run,
            self.check.run,
            self.snapshot_writer.run,
            self.key_file_writer.run,
            self.worker_process.run,
            self.state_commands.run,
            self.reloader.watch_signals,
            self.reloader.run,
            self._watch_wall_clock,
            self.incidents.run,
            partial(collect_with_few_callers, lambda: self.server.connections),
            self.commands.restart.run,
            self.gpus.run,
            self.service_manager.run,
            SharedWorkerWatcher(self.node, self.commands.shared_worker_changed).run,
        ]
        return tasks if self.certificate is None else [*tasks, self.certificate.run]

    def _build_parts(self, restored: RestoredState) -> None:
        settings = self.settings
        rng = random.Random(secrets.randbits(128))
        process = secrets.token_hex(8)
        self.node = new_node(settings, self.keys, self.credentials, self.policy_key, restored, rng)
        self.incidents = incident_records(
            settings.record_dir, self.node, settings.name, lambda trouble: self.log.warning("record", trouble=trouble)
        )
        self.transport = GossipTransport(self.node, self.sock, on_change=self._on_change, on_events=self._on_events)
        self.commands = SidecarCommands(
            settings,
            node=self.node,
            transport=self.transport,
            process=process,
            log=self.log,
            stop_requested=self.stop_requested,
            reload=self.reloader.request,
            sources=self._status_sources(),
        )
        self.state_commands = StateCommands(settings, self.log)
        self.commands.on_state_change = self.state_commands.changed
        self.server = DiscoveryServer(
            commands=self.commands,
            process=process,
            wall_offset=self.wall_clock.offset,
            access=self.config.access,
            sealed=self.keys is not None,
            rng=rng,
            disabled_formats=settings.disable_format,
        )
        self._build_worker_watch()
        self._build_writers(rng, restored)

    def _build_worker_watch(self) -> None:
        """What looks at the worker: its health, and its process."""
        settings = self.settings
        self.check = WorkerCheck(
            plan_of(settings, self.config.probe_spec, self.config.probe),
            on_change=self._on_readiness,
            on_failure=self.commands.worker_failed,
            on_miss=self.commands.check_missed,
            on_note=lambda text: self.log.info("counters", monotonic=monotonic(), text=text),
            on_reading=self.commands.activity.measure,
            callers=self.commands.activity.callers_reading,
        )
        self.commands.activity.on_doubt = self.transport.on_doubt = self.check.doubt
        self.worker_process = WorkerProcess(
            ProcessSource.of(settings),
            on_start=self.check.process_started,
            on_end=self.check.process_ended,
            on_event=lambda text: self._on_events([Event(boot_clock(), "process", settings.name, text)]),
        )

    def _status_sources(self) -> StatusSources:
        """Where the status asks for what changes while the agent runs. The parts may not exist yet."""
        return StatusSources(
            counters=self._counters,
            key_file_trouble=lambda: self.key_file_writer.trouble,
            settings_trouble=lambda: self.reloader.trouble,
            worker_process=lambda: self.worker_process.state_text,
            engine=lambda: self.check.counters.latest,
            restart_reason=lambda: self.check.restart_reason(),
            worker_up=lambda: self.check.up,
            gpus=lambda: self.gpus.latest,
            certificate=self.certificate,
        )

    def _apply(self, new: RuntimeConfig) -> None:
        """Hand changed settings to the parts that can change while the agent runs."""
        self.settings = settings = new.settings
        self.check.configure(plan_of(settings, new.probe_spec, new.probe))
        self.worker_process.set_source(ProcessSource.of(settings))
        self.server.set_access(new.access)
        if self.certificate is not None and new.certificate is not None:
            self.certificate.replace(new.certificate)
        set_log_level(settings.log_level)
        self.state_commands.configure(settings)
        self.commands.reconfigure(settings)

    def _on_readiness(self, readiness: Readiness, why: str) -> None:
        """Announce the worker's new readiness, and show its reason among this sidecar's events."""
        old = self.commands.readiness.word
        self.commands.readiness_changed(readiness, why)
        text, new = f"the worker is {readiness.word}: {why}", self.commands.readiness.word
        self.server.publish_events([Event(boot_clock(), "readiness", self.settings.name, text, old, new, why)])

    def _counters(self) -> dict[str, int]:
        http = {f"http_{name}": value for name, value in self.server.counters.items()}
        lines = {"log_lines_dropped": self.log_writer.dropped}
        return {**self.transport.counters, **http, **self.formats.counters, **lines}

    def _build_writers(self, rng: random.Random, restored: RestoredState) -> None:
        settings, node = self.settings, self.node
        self.seed_resolver = SeedResolver(
            settings.join,
            restored.addresses,
            family=self.sock.family,
            loopback=settings.gossip.loopback,
            rng=rng,
            set_seeds=node.set_seeds,
            joined=lambda: node.joined,
            on_trouble=lambda seed, why: self.log.warning("join", seed=str(seed), trouble=why),
        )
        self.snapshot_writer = snapshot_writer(
            settings.snapshot,
            settings.name,
            settings.cluster,
            lambda: (node.generation, node.addresses(), node.policies),
            restored.addresses,
            self._log_snapshot_trouble,
        )
        self.last_key_file = self._current_key_file()  # compared at each event, to see whether the keys changed
        self.key_file_writer = key_file_writer(
            settings.key_file,
            self._current_key_file,
            lambda trouble: self.log.error("key file", trouble=trouble),
            lambda file: self.log.info("key file", version=file.version, keys=list(file.ring.names)),
        )

    def _current_key_file(self) -> KeyFile | None:
        return KeyFile(self.node.keyring, self.node.key_version) if self.node.keyring else None

    def _log_snapshot_trouble(self, trouble: str) -> None:
        self.log.warning("snapshot", trouble=trouble)

    def _on_change(self) -> None:
        self.server.pool_changed()
        self.commands.policies_changed(self.node.policy_records)
        self.snapshot_writer.notify_changed()

    def _check_wall_clock(self) -> None:
        """Keep the times of events equal to those of the log after somebody has set the clock."""
        if moved := self.wall_clock.measure_step():
            self.log.info("clock", text=f"the wall clock was set by {moved:+.1f} s")
            self.server.set_wall_offset(self.wall_clock.offset)

    async def _watch_wall_clock(self) -> None:
        while True:
            await trio.sleep(CLOCK_CHECK_SECONDS)
            self._check_wall_clock()

    def _on_events(self, events: Sequence[Event]) -> None:
        self._check_wall_clock()
        self.server.publish_events(events)
        self.incidents.note(events)
        if (keys := self._current_key_file()) != self.last_key_file:
            self.last_key_file = keys
            self.key_file_writer.notify_changed()
        for event in events:
            log = self.log.warning if event.kind == "period" else self.log.info
            log(event.kind, monotonic=monotonic(), who=event.member, text=event.text, **event.change)

    async def _gossip(self) -> None:
        try:
            await self.transport.run()
        except Exception:
            self.incidents.write_now("crash")
            raise
        self.gossip_stopped.set()
        self.stop_requested.set()

    async def _serve(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        http = str(bound_endpoint(listeners[0]))
        self.log.info("serving", monotonic=monotonic(), http=http, **self.formats.addresses)
        await self.server.serve(listeners, task_status=task_status)
        self.endpoint_closed.set()

    async def _wait_for_signal(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The first signal makes the agent drain and leave. Once it is leaving, a signal ends it at once."""
        with self.signal_scope, trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            task_status.started()
            number = await anext(signals)
            self.log.info("signal", signal=signal.Signals(number).name)
            self.stop_requested.set()

    async def _drain_and_leave(self) -> None:
        """Drain, then leave the pool, and wait until the leave message has gone out."""
        self.service_manager.stopping(max(self.settings.drain_time, self.settings.drain_deadline) + 3 * LEAVE_TIMEOUT)
        self.commands.drain()
        await self.commands.activity.wait_drained(self.check.wait_worker_gone, self.settings.drain_deadline)
        self.node.leave(boot_clock())
        self.transport.wake()
        with trio.move_on_after(LEAVE_TIMEOUT) as leaving:
            await self.gossip_stopped.wait()
        if leaving.cancelled_caught:
            self.log.warning("goodbye was not said in time")

    async def _close_endpoint(self) -> None:
        self.server.close()
        with trio.move_on_after(LEAVE_TIMEOUT):
            await self.endpoint_closed.wait()
        if (path := self.settings.http.path) is not None:
            path.unlink(missing_ok=True)
