"""The sidecar's side of the discovery endpoint: its commands and its status, and the worker's readiness.

The announced readiness has three sources: the worker check, the operator's drain command, and the pool's maintenance
policy. While the worker drains or is in maintenance, the pool is told *draining*. The result of the check is kept, and
announced when draining ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import trio

from rumormill.discovery.commands import CommandRejected, GpuRow, KeyRow, KeysAnswer, SidecarMeasurements, Status
from rumormill.discovery.schema.answers import describe_shared_worker
from rumormill.discovery.schema.policies import find, workers_in_maintenance
from rumormill.discovery.schema.policy_bodies import PolicyBody, describe_policy, encode_body
from rumormill.gossip import InvalidKey, KeyRing, Node
from rumormill.gossip.dissemination.policy_replication import PolicyRefused
from rumormill.gossip.security.keyring import key_id_of, parse_key
from rumormill.gossip.udp.transport import GossipTransport, boot_clock
from rumormill.membership.policy import InvalidPolicy, PolicyRecord
from rumormill.membership.record import InstanceId, Liveness, Readiness
from rumormill.membership.view import MemberDetail, PoolView
from rumormill.recording.recorder import RecordedNode
from rumormill.ring.worker import ReadinessWord
from rumormill.sidecar.log import Log, monotonic
from rumormill.sidecar.planned_restart import PlannedRestart
from rumormill.sidecar.profile import profile_of
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_shown import settings_in_force
from rumormill.sidecar.shared_worker import members_sharing_worker
from rumormill.sidecar.state_commands import StateChange
from rumormill.sidecar.tls import CertificateReloader
from rumormill.sidecar.worker_activity import WorkerActivity
from rumormill.sidecar.worker_load import WorkerLoad

MAX_PERIODS_LISTED = 8
"""Members with another heartbeat period that the status names."""
READINESS_WORDS: Mapping[Readiness, ReadinessWord] = {
    Readiness.STARTING: "starting",
    Readiness.PASSING: "passing",
    Readiness.WARNING: "warning",
    Readiness.CRITICAL: "critical",
    Readiness.DRAINING: "draining",
}
MAX_LOGGED_MISSES = 16
"""Distinct reasons for missed checks that are logged between two changes of the worker's readiness."""


class StatusSources(NamedTuple):
    """The parts of the agent that are only read, for the status and the probes of an orchestrator."""

    counters: Callable[[], Mapping[str, int]]
    key_file_trouble: Callable[[], str]
    settings_trouble: Callable[[], str]
    worker_process: Callable[[], str]
    engine: Callable[[], WorkerLoad | None]
    restart_reason: Callable[[], str | None]
    worker_up: Callable[[], bool]
    gpus: Callable[[], Sequence[GpuRow]]
    certificate: CertificateReloader | None


class SidecarCommands:
    """Implements :class:`rumormill.discovery.Commands`. The worker check reports to it."""

    def __init__(
        self,
        settings: Settings,
        *,
        node: Node,
        transport: GossipTransport,
        process: str,
        log: Log,
        stop_requested: trio.Event,
        reload: Callable[[], None],
        sources: StatusSources,
    ) -> None:
        self._settings = settings
        self._node = node
        self._transport = transport
        self._process = process
        self._log = log
        self._stop_requested = stop_requested
        self._reload = reload
        self._sources = sources
        self._worker_readiness = Readiness.STARTING
        self._readiness_reason = "the worker has not answered its check yet"
        self._logged_misses: set[str] = set()
        """Reasons logged since the readiness last changed."""
        self._draining = False
        self._in_maintenance = False
        self.activity = WorkerActivity(node, sources.engine, transport.wake)
        self.activity.drain_time = settings.drain_time
        self._announced = Readiness.STARTING
        self.on_state_change: Callable[[StateChange], None] = lambda _: None
        """Called when the announced readiness has changed."""
        self.endpoint = 0
        """The port at which others reach the discovery endpoint; 0 for none."""
        self.restart = PlannedRestart(sources.worker_up, self.undrain)

    @property
    def readiness(self) -> Readiness:
        """The readiness the pool is told, once any probation is over."""
        return Readiness.DRAINING if self._draining or self._in_maintenance else self._worker_readiness

    def policies_changed(self, policies: Sequence[PolicyRecord]) -> None:
        """Check whether the pool's policy now puts this worker in maintenance, or takes it out."""
        record = find(policies, self._settings.service, "maintenance")
        wanted = self._settings.name in workers_in_maintenance(record)
        if wanted != self._in_maintenance:
            self._in_maintenance = wanted
            self._log.info("maintenance", on=wanted)
            self._announce()

    def policies(self) -> Sequence[PolicyRecord]:
        """The pool's current policies."""
        return self._node.policy_records

    def policy_history(self) -> Sequence[tuple[PolicyRecord, str]]:
        """The last policies learned here, oldest first, each with its description."""
        return [(record, describe_policy(record)) for record in self._node.policy_history()]

    def write_policy(self, service: str, body: PolicyBody) -> PolicyRecord:
        """Make this the pool's policy. Raises :class:`CommandRejected`."""
        try:
            record = self._node.write_policy(service, encode_body(body), round(time.time() * 1000), boot_clock())
        except (PolicyRefused, InvalidPolicy) as error:
            raise CommandRejected(
                str(error), "`rumormill status` shows whether this sidecar is part of its pool"
            ) from None
        self._transport.wake()
        return record

    def worker_failed(self) -> None:
        """A ready worker has exited, refused a connection, or given a wrong answer. Silence alone does not count: the
        worker may be busy."""
        self._node.worker_failed(boot_clock())

    def shared_worker_changed(self, others: Sequence[str]) -> None:
        """Report which other members announce this worker's URL; none when that has ended."""
        names, url = [self._settings.name, *others], self._settings.worker_url
        if others:
            self._log.warning("shared worker", url=url, members=names, text=describe_shared_worker(names, url))
        else:
            self._log.info("shared worker", url=url, members=names, text="no other member names this worker any more")

    def readiness_changed(self, readiness: Readiness, why: str) -> None:
        """The worker check reports a new readiness."""
        self._worker_readiness = readiness
        self._logged_misses.clear()
        self._readiness_reason = f"the worker is {readiness.word}: {why}"
        log = self._log.warning if readiness is Readiness.CRITICAL else self._log.info
        log("worker", monotonic=monotonic(), readiness=readiness.word, why=why)
        self._announce()

    def check_missed(self, why: str) -> None:
        """A check was missed, for another reason than the previous one. Each reason is logged once, so that a worker
        whose answers alternate does not fill the log."""
        if not self._worker_readiness.routable:
            self._readiness_reason = f"the worker is {self._worker_readiness.word}: {why}"
        if why not in self._logged_misses and len(self._logged_misses) < MAX_LOGGED_MISSES:
            self._logged_misses.add(why)
            self._log.warning("check", monotonic=monotonic(), why=why)
            self._announce()

    def drain(self, *, restart: bool = False) -> None:
        """Stop new work for this worker; with ``restart`` until it has restarted. A plain drain stays."""
        if not restart:
            self.restart.cancel()
        elif not self._draining:
            self.restart.announce()
        if not self._draining:
            self._draining = True
            self.activity.set_draining(True)
            self._log.info("draining", restart=restart)
        self._announce()

    def undrain(self) -> None:
        """Allow new work again as soon as the check passes. Does nothing once the sidecar is leaving."""
        self.restart.cancel()
        if self._draining and not self._stop_requested.is_set():
            self._draining = False
            self.activity.set_draining(False)
            self._log.info("undrained")
            self._announce()

    def reload(self) -> None:
        """Read the settings again, as SIGHUP does."""
        self._reload()

    def reconfigure(self, settings: Settings) -> None:
        """Announce the worker as these settings describe it."""
        self._settings = settings
        self.activity.drain_time = settings.drain_time
        self._announce()

    def set_weight(self, weight: float) -> None:
        """Give the worker this weight until the settings are read again. Raises :class:`CommandRejected`."""
        if weight and not round(weight * 1000):
            raise CommandRejected(f"the weight {weight} is less than 0.001", "give at least 0.001, or 0 for no traffic")
        self._log.info("weight", weight=weight, before=self._settings.weight)
        self.reconfigure(msgspec.structs.replace(self._settings, weight=weight))

    def leave(self) -> None:
        """Drain, leave the pool and end, as SIGTERM does."""
        self._stop_requested.set()

    def keys(self) -> KeysAnswer:
        """Which members hold which key, as far as they have answered. Asks the others again."""
        audit = self._node.audit_keys(boot_clock())
        self._transport.wake()
        ours = self._node.keyring.names if self._node.keyring else ()
        names = [*ours, *sorted(name for name in audit.holders if name not in ours)]
        return KeysAnswer(
            process=self._process,
            version=audit.version,
            keys=[KeyRow(name, name == audit.primary, name in ours, audit.holders[name]) for name in names],
            members=audit.members,
            unanswered=list(audit.unanswered),
            behind=list(audit.behind),
            settled=audit.settled,
            file=self._sources.key_file_trouble(),
        )

    def proves_key(self, proof: bytes, text: bytes) -> bool:
        """Whether the sender of this text holds one of our keys. Always true in a plaintext pool: it has no keys."""
        ring = self._node.keyring
        return ring is None or ring.proves(proof, text)

    def install_key(self, text: str) -> None:
        """Make every member accept one more key."""
        ring = self._require_ring()
        try:
            key = parse_key(text.strip())
        except InvalidKey as error:
            raise CommandRejected(f"the key {error}", "make one with `rumormill keys generate`") from None
        if key not in ring.keys and key_id_of(key) in map(key_id_of, ring.keys):
            raise CommandRejected("the key has the same id as a key in use", "generate another key")
        try:
            self._change_ring(ring, ring.with_key(key))
        except InvalidKey as error:
            raise CommandRejected(str(error), "remove an unused key first; `rumormill keys list` shows them") from None

    def use_key(self, key_id: str) -> None:
        """Make every member seal with this key."""
        ring = self._require_ring()
        self._change_ring(ring, ring.with_primary(self._require_key(ring, key_id)))

    def remove_key(self, key_id: str) -> None:
        """Make every member stop accepting this key."""
        ring = self._require_ring()
        try:
            self._change_ring(ring, ring.without_key(self._require_key(ring, key_id)))
        except InvalidKey as error:
            raise CommandRejected(str(error), "make another key primary first: `rumormill keys use OTHER`") from None

    def _require_ring(self) -> KeyRing:
        ring = self._node.keyring
        if ring is None:
            raise CommandRejected(
                "this pool gossips in plaintext and has no keys", "start every member with --key-file to seal gossip"
            )
        return ring

    def _require_key(self, ring: KeyRing, key_id: str) -> bytes:
        key = ring.key_named(key_id)
        if key is None:
            raise CommandRejected(f"this sidecar has no key {key_id}", f"its keys are {', '.join(ring.names)}")
        return key

    def _change_ring(self, before: KeyRing, after: KeyRing) -> None:
        """Spread the new ring. An unchanged ring is spread too if it came from key files alone (version 0), so that
        every member then has the same version."""
        if after != before or not self._node.key_version:
            self._node.change_keys(after, boot_clock())
            self._transport.wake()

    def _announce(self) -> None:
        why = "" if self.readiness.routable else self._not_serving() or self._readiness_reason
        self._node.update(profile_of(self._settings, self.readiness, why, self.endpoint), boot_clock())
        self._transport.wake()
        before, self._announced = self._announced, self.readiness
        if before is not self._announced:
            why = self._not_serving() or self._readiness_reason
            self.on_state_change(StateChange(READINESS_WORDS[before], READINESS_WORDS[self._announced], why))

    def _not_serving(self) -> str:
        """Why the worker gets no new work whatever its check finds; empty if neither the operator nor the pool says
        so."""
        if self._draining:
            return "the worker is about to be restarted" if self.restart.pending else "the worker is draining"
        return "the pool's policy puts this worker in maintenance" if self._in_maintenance else ""

    def record(self) -> bytes:
        """What the flight recorder holds."""
        if not isinstance(self._node, RecordedNode):
            raise CommandRejected("this sidecar has no flight recorder", "start it with --record 8")
        if not self._node.recorder.segments:
            trouble = self._node.recorder.trouble
            raise CommandRejected(f"the flight recorder holds nothing: {trouble}", "report this: it is a bug")
        return self._node.recorder.dump()

    def unready(self) -> str | None:
        """Why this worker should get no new work; None when it may."""
        if self._node.stopped:
            return self._node.stopped
        if why := self._not_serving():
            return why
        if not self.readiness.routable:
            return self._readiness_reason
        if self._node.probation:
            return f"this member has flapped and is on probation for {self._node.probation:.0f} s more"
        if any(member.pending for member in self._own_members()):
            return f"the name {self._settings.name!r} is still held by an earlier run of this member"
        return None

    def worker_restart_reason(self) -> str | None:
        """Why the worker's process should be restarted; None if it should not."""
        return self._sources.restart_reason()

    def _own_members(self) -> list[Any]:
        return [member for member in self._node.view.members if member.instance == self._node.instance]

    def view(self) -> PoolView:
        """The pool as this sidecar sees it now."""
        return self._node.view

    def details(self) -> Mapping[InstanceId, MemberDetail]:
        """Each member's current details by instance."""
        return self._node.details(boot_clock())

    def measurements(self) -> SidecarMeasurements:
        """What this sidecar measured of itself since its start."""
        return SidecarMeasurements(self._node.measurements, self._transport.lag_histogram)

    def _period_trouble(self) -> str:
        """Which members use another heartbeat period than this one, with both periods; empty if none does."""
        ours = self._settings.period
        odd = [m for m in self._node.view.members if m.liveness.present and abs(m.period - ours) > 0.0005]
        named = ", ".join(f"{member.name} every {member.period:g} s" for member in odd[:MAX_PERIODS_LISTED])
        more = f" and {len(odd) - MAX_PERIODS_LISTED} more" if len(odd) > MAX_PERIODS_LISTED else ""
        return (
            f"this member sends a heartbeat every {ours:g} s; {named}{more}: set one --period everywhere" if odd else ""
        )

    def status(self) -> Status:
        """This sidecar's current state."""
        node, settings, sources = self._node, self._settings, self._sources
        certificate = sources.certificate
        utilization, queue, load_age = self.activity.own_load() or (None, None, None)
        return Status(
            name=settings.name,
            cluster=settings.cluster,
            service=settings.service,
            process=self._process,
            generation=node.generation,
            instance=node.instance.hex(),
            gossip=str(settings.advertised_address),
            readiness=READINESS_WORDS[self.readiness],
            draining=self._draining,
            readiness_why=self._readiness_reason,
            unready=self.unready() or "",
            joined=node.joined,
            isolated=not node.is_connected,
            connectivity=node.connectivity.word,
            connectivity_why=node.connectivity.words,
            stopped=node.stopped,
            peers=sum(m.liveness is Liveness.ALIVE and m.instance != node.instance for m in node.view.members),
            suspects=sum(m.liveness is Liveness.SUSPECT for m in node.view.members),
            table_digest=f"{node.table_digest:016x}",
            seal="aes-256-gcm" if node.keyring else "plaintext",
            keys=len(node.keyring.keys) if node.keyring else 0,
            seal_trouble=node.seal_trouble,
            shares_worker_with=list(members_sharing_worker(node.instance, node.view.members)),
            period_trouble=self._period_trouble(),
            loop_lag=round(self._transport.lag, 4),
            counters={**node.counters, **sources.counters()},
            settings=settings_in_force(settings),
            settings_trouble=sources.settings_trouble(),
            worker_process=sources.worker_process(),
            utilization=utilization,
            queue=queue,
            load_age=load_age and round(load_age, 3),
            gpus=sources.gpus(),
            certificate_not_after=certificate.certificate.not_after if certificate else None,
            certificate_trouble=certificate.trouble if certificate else "",
        )
