"""One worker's companion: what it says of its worker, and what the discovery endpoint may ask of it.

What the pool is told (readiness) has three sources: the worker check, the operator's wish to drain, and the pool's
policy, which may keep this worker in maintenance. Draining wins while it lasts; what the check finds meanwhile is
remembered and told when draining ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from rumormill.discovery.commands import CommandRejected, KeyRow, KeysAnswer, SettingValue, Status
from rumormill.discovery.schema.answers import shared_in_words
from rumormill.discovery.schema.policies import find, workers_in_maintenance
from rumormill.discovery.schema.policy_bodies import PolicyBody, describe_policy, encode_body
from rumormill.gossip import InvalidKey, KeyRing, Node, Profile
from rumormill.gossip.dissemination.policy_replication import PolicyRefused
from rumormill.gossip.security.keyring import key_id_of, parse_key
from rumormill.gossip.udp.transport import GossipTransport, boot_clock
from rumormill.membership.policy import InvalidPolicy, PolicyRecord
from rumormill.membership.record import InstanceId, Liveness, Readiness
from rumormill.membership.view import MemberDetail, PoolView
from rumormill.ring.worker import ReadinessWord
from rumormill.sidecar.log import Log, monotonic
from rumormill.sidecar.reload import Reloader
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.shared_worker import sharing
from rumormill.sidecar.tls import CertificateKeeper

PERIODS_NAMED = 8
_WORDS: Mapping[Readiness, ReadinessWord] = {
    Readiness.STARTING: "starting",
    Readiness.PASSING: "passing",
    Readiness.WARNING: "warning",
    Readiness.CRITICAL: "critical",
    Readiness.DRAINING: "draining",
}


MISSES_TOLD = 16
"""Different reasons that are logged before the worker's readiness changes again."""


def profile_of(settings: Settings, readiness: Readiness) -> Profile:
    """What a sidecar with these settings says of a worker in this state."""
    return Profile(
        service=settings.service,
        url=settings.worker_url,
        zone=settings.zone,
        release=settings.release,
        weight=round(settings.weight * 1000),
        readiness=readiness,
        tags=settings.tag,
    )


class SidecarCommands:
    """Implements :class:`rumormill.discovery.Commands`, and hears of the worker check."""

    def __init__(
        self,
        settings: Settings,
        *,
        node: Node,
        transport: GossipTransport,
        key_file_trouble: Callable[[], str],
        process: str,
        log: Log,
        going: trio.Event,
        counters: Callable[[], Mapping[str, int]],
        reloader: Reloader,
        certificate: CertificateKeeper | None,
        worker_process: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._node = node
        self._transport = transport
        self._key_file_trouble = key_file_trouble
        self._process = process
        self._log = log
        self._going = going
        self._counters = counters
        self._reloader = reloader
        self._certificate = certificate
        self._worker_process = worker_process
        self._worker = Readiness.STARTING
        self._why = "the worker has not answered its check yet"
        self._misses_told: set[str] = set()
        """Reasons of missed checks in the log since the readiness last changed."""
        self._draining = False
        self._in_maintenance = False

    @property
    def readiness(self) -> Readiness:
        """What the pool is told, once any probation is over."""
        return Readiness.DRAINING if self._draining or self._in_maintenance else self._worker

    def hear_policy(self, policies: Sequence[PolicyRecord]) -> None:
        """The pool's policies may have changed: perhaps operators keep this worker out of new work."""
        record = find(policies, self._settings.service, "maintenance")
        wanted = self._settings.name in workers_in_maintenance(record)
        if wanted != self._in_maintenance:
            self._in_maintenance = wanted
            self._log.info("maintenance", on=wanted)
            self._tell()

    def policies(self) -> Sequence[PolicyRecord]:
        """The pool's policies, read now."""
        return self._node.policy_records

    def policy_history(self) -> Sequence[tuple[PolicyRecord, str]]:
        """The last policies learned here, oldest first, each with its words."""
        return [(record, describe_policy(record)) for record in self._node.policy_history()]

    def write_policy(self, service: str, body: PolicyBody) -> PolicyRecord:
        """Make this the pool's policy."""
        try:
            record = self._node.write_policy(service, encode_body(body), round(time.time() * 1000), boot_clock())
        except (PolicyRefused, InvalidPolicy) as error:
            raise CommandRejected(str(error), "rumormill status shows how this sidecar stands to its pool") from None
        self._transport.poke()
        return record

    def worker_failed(self) -> None:
        """A worker that was ready has ended, refused or answered wrongly; one that is only silent may be busy."""
        self._node.worker_failed(boot_clock())

    def worker_shared(self, others: Sequence[str]) -> None:
        """Other members name this worker's URL as theirs; nobody does any more where there are none."""
        names, url = [self._settings.name, *others], self._settings.worker_url
        if others:
            self._log.warning("shared worker", url=url, members=names, text=shared_in_words(names, url))
        else:
            self._log.info("shared worker", url=url, members=names, text="no other member names this worker any more")

    def worker_is(self, readiness: Readiness, why: str) -> None:
        """The worker check has concluded something."""
        self._worker = readiness
        self._misses_told.clear()
        self._why = f"the worker is {readiness.word}: {why}"
        log = self._log.warning if readiness is Readiness.CRITICAL else self._log.info
        log("worker", monotonic=monotonic(), readiness=readiness.word, why=why)
        self._tell()

    def check_missed(self, why: str) -> None:
        """A check was missed, for another reason than the one before it. A worker that answers now this and now that
        writes each reason to the log once."""
        if not self._worker.routable:
            self._why = f"the worker is {self._worker.word}: {why}"
        if why not in self._misses_told and len(self._misses_told) < MISSES_TOLD:
            self._misses_told.add(why)
            self._log.warning("check", monotonic=monotonic(), why=why)

    def drain(self) -> None:
        """Take this worker out of new work."""
        if not self._draining:
            self._draining = True
            self._log.info("draining")
            self._tell()

    def undrain(self) -> None:
        """Put it back as soon as its check passes. Refused silently once leaving has begun: that is for good."""
        if self._draining and not self._going.is_set():
            self._draining = False
            self._log.info("undrained")
            self._tell()

    def reload(self) -> None:
        """Have the settings read again, as a SIGHUP does."""
        self._reloader.ask()

    def reconfigure(self, settings: Settings) -> None:
        """Say of the worker what these settings say of it."""
        self._settings = settings
        self._tell()

    def leave(self) -> None:
        """Begin to leave the pool for good: drains first, as a SIGTERM does."""
        self._going.set()

    def keys(self) -> KeysAnswer:
        """Who holds which key, as far as has been heard; goes on asking."""
        audit = self._node.audit_keys(boot_clock())
        self._transport.poke()
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
            file=self._key_file_trouble(),
        )

    def proves_key(self, proof: bytes, text: bytes) -> bool:
        """Whether whoever said this holds one of our keys. In plaintext there is none, and nothing to protect."""
        ring = self._node.keyring
        return ring is None or ring.proves(proof, text)

    def install_key(self, text: str) -> None:
        """Accept one more key, everywhere."""
        ring = self._ring()
        try:
            key = parse_key(text.strip())
        except InvalidKey as error:
            raise CommandRejected(f"the key {error}", "rumormill keys generate makes one") from None
        if key not in ring.keys and key_id_of(key) in map(key_id_of, ring.keys):
            raise CommandRejected("the key looks on the wire like one that is in use", "generate another")
        try:
            self._change(ring, ring.with_key(key))
        except InvalidKey as error:
            raise CommandRejected(str(error), "remove one that is no longer used: rumormill keys list") from None

    def use_key(self, key_id: str) -> None:
        """Seal with this key from now on, everywhere."""
        ring = self._ring()
        self._change(ring, ring.with_primary(self._key(ring, key_id)))

    def remove_key(self, key_id: str) -> None:
        """Accept this key no longer, anywhere."""
        ring = self._ring()
        try:
            self._change(ring, ring.without_key(self._key(ring, key_id)))
        except InvalidKey as error:
            raise CommandRejected(str(error), "rumormill keys use OTHER first") from None

    def _ring(self) -> KeyRing:
        ring = self._node.keyring
        if ring is None:
            raise CommandRejected("this pool gossips in plaintext", "start every member with --key-file to seal it")
        return ring

    def _key(self, ring: KeyRing, key_id: str) -> bytes:
        key = ring.key_named(key_id)
        if key is None:
            raise CommandRejected(f"there is no key {key_id} here", f"there are {', '.join(ring.names)}")
        return key

    def _change(self, before: KeyRing, after: KeyRing) -> None:
        """A step that changes nothing still makes the ring everyone's where it had come from files alone."""
        if after != before or not self._node.key_version:
            self._node.change_keys(after, boot_clock())
            self._transport.poke()

    def _tell(self) -> None:
        self._node.update(profile_of(self._settings, self.readiness), boot_clock())
        self._transport.poke()

    def unready(self) -> str | None:
        """Why no new work should be sent here; None when it may."""
        if self._node.stopped:
            return self._node.stopped
        if self._draining:
            return "the worker is draining"
        if self._in_maintenance:
            return "the pool's policy has this worker in maintenance"
        if not self.readiness.routable:
            return self._why
        if self._node.probation:
            return f"this member has flapped and is on probation for {self._node.probation:.0f} s more"
        if any(member.pending for member in self._own_rows()):
            return f"the name {self._settings.name!r} is still held by a former life of it"
        return None

    def _own_rows(self) -> list[Any]:
        return [member for member in self._node.view.members if member.instance == self._node.instance]

    def view(self) -> PoolView:
        """What this sidecar holds of the pool now."""
        return self._node.view

    def details(self) -> Mapping[InstanceId, MemberDetail]:
        """Each member's detail by instance, read now."""
        return self._node.details(boot_clock())

    def _period_trouble(self) -> str:
        """Who heartbeats at another period than we do, both said."""
        ours = self._settings.period
        odd = [m for m in self._node.view.members if m.liveness.present and abs(m.period - ours) > 0.0005]
        named = ", ".join(f"{member.name} every {member.period:g} s" for member in odd[:PERIODS_NAMED])
        more = f" and {len(odd) - PERIODS_NAMED} more" if len(odd) > PERIODS_NAMED else ""
        return f"this member sends a heartbeat every {ours:g} s; {named}{more}: give all one --period" if odd else ""

    def status(self) -> Status:
        """This sidecar, read now."""
        node, settings, certificate = self._node, self._settings, self._certificate
        return Status(
            name=settings.name,
            cluster=settings.cluster,
            service=settings.service,
            process=self._process,
            generation=node.generation,
            instance=node.instance.hex(),
            gossip=str(settings.reached_at),
            readiness=_WORDS[self.readiness],
            draining=self._draining,
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
            shares_worker_with=list(sharing(node.instance, node.view.members)),
            period_trouble=self._period_trouble(),
            loop_lag=round(self._transport.lag, 4),
            counters={**node.counters, **self._counters()},
            settings=settings_in_force(settings),
            settings_trouble=self._reloader.trouble,
            worker_process=self._worker_process(),
            certificate_not_after=certificate.certificate.not_after if certificate else None,
            certificate_trouble=certificate.trouble if certificate else "",
        )


def settings_in_force(settings: Settings) -> dict[str, SettingValue]:
    """The settings in force as an operator may read them, by kebab-case name. Secrets are in files, and stay there."""
    return {
        field.encode_name: _shown(getattr(settings, field.name)) for field in msgspec.structs.fields(type(settings))
    }


def _shown(value: Any) -> SettingValue:
    match value:
        case None | bool() | int():
            return value
        case dict():
            return [f"{key}={text}" for key, text in value.items()]
        case tuple():
            return [str(one) for one in value]
        case float() if type(value) is float:
            return value
        case str() | Path() | float():
            return str(value)
    raise TypeError(f"a setting of kind {type(value).__name__} has no way to be shown")
