"""What the endpoint may ask of the sidecar, and the one thing it may make it do.

Discovery changes nothing by itself: every effect passes through this protocol, which the sidecar implements. All verbs
are synchronous, return at once, and are safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from rumormill.discovery.schema.policy_bodies import PolicyBody
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import InstanceId
from rumormill.membership.view import ConnectivityWord, MemberDetail, PoolView
from rumormill.ring.worker import ReadinessWord

SettingValue = str | int | float | bool | list[str] | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``GET /v1/status``: this sidecar, seen from inside. Secrets never stand in it."""

    name: str
    cluster: str
    service: str
    process: str
    """Which run of the sidecar this is; the one that indexes count in."""
    generation: int
    instance: str
    """32 hexadecimal digits."""
    gossip: str
    """HOST:PORT the others reach this sidecar at."""
    readiness: ReadinessWord
    draining: bool
    unready: str
    """Why no new work should be sent here; empty when it may."""
    joined: bool
    """Whether it knows of any other member."""
    isolated: bool
    """Whether it is cut off, as it seems, in any way: what it says of the others is what it last knew."""
    connectivity: ConnectivityWord = "connected"
    """How it stands to the others: connected; isolated (too many of them are missing at once), deaf (it hears nobody),
    or mute (nobody hears it)."""
    connectivity_why: str = ""
    """What that means, in words ("the others hold this member dead: they do not hear it"); empty while connected."""
    stopped: str | None
    """Why it fell silent (its name is taken, and by whom); null while it runs."""
    peers: int
    """Other members held alive, and not suspect."""
    suspects: int = 0
    """Members held suspect: missed, and not evicted yet, or not to be while this sidecar is isolated."""
    table_digest: str
    """16 hexadecimal digits; equal where members know the same."""
    seal: str
    """``aes-256-gcm`` or ``plaintext``."""
    keys: int
    """Keys that open what others seal; 0 in plaintext."""
    seal_trouble: str
    """What an address this sidecar tried lately says of its seal (unauthenticated); empty when nothing."""
    shares_worker_with: list[str]
    """Other members that serve the same service at the same URL: its worker gets the load of all of them."""
    period_trouble: str = ""
    """Members that heartbeat at another period than this sidecar; empty where there are none."""
    loop_lag: float
    """Seconds the loop came late to its last deadline."""
    counters: dict[str, int]
    """Datagrams sent, received, dropped by reason, and so on, since the start."""
    settings: dict[str, SettingValue]
    """What is in force, wherever it came from; paths in place of what is secret."""
    settings_trouble: str = ""
    """Why the settings that were last read are not, or not all, in force; empty when they are."""
    worker_process: str = ""
    """Which process of the worker is watched, in words; empty where none was to be."""
    certificate_not_after: float | None = None
    """When the endpoint's certificate ends, in seconds since the epoch; null without TLS."""
    certificate_trouble: str = ""
    """Why its files do not hold the certificate in force; empty when they do."""


class KeyRow(msgspec.Struct, frozen=True):
    """One group key, by what it is called. The key itself is told nobody."""

    id: str
    """Eight hexadecimal digits."""
    primary: bool
    """Whether this sidecar seals with it."""
    accepted: bool
    """Whether this sidecar opens what others seal with it."""
    members: int
    """How many present members hold it, this one included."""


class KeysAnswer(msgspec.Struct, frozen=True):
    """The answer of the routes at ``/v1/keys``: the pool's key ring, as far as this sidecar has heard."""

    process: str
    """Which run of the sidecar answers; goes into the proof that a change needs."""
    version: int
    """How often the ring has been changed; 0 while it is as the key files had it."""
    keys: list[KeyRow]
    members: int
    """Present members, this one included."""
    unanswered: list[str]
    """Those that have not said which keys they hold."""
    behind: list[str]
    """Those that hold another ring than this sidecar."""
    settled: bool
    """Whether everyone present holds the same: then the next step of a rotation loses nobody."""
    file: str
    """Why this sidecar's own key file does not hold the ring; empty when it does."""


class CommandRejected(Exception):
    """A command that cannot be carried out as things stand; nothing has changed."""

    def __init__(self, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class Commands(Protocol):
    """The sidecar, as the endpoint may use it."""

    def view(self) -> PoolView:
        """What the sidecar holds of the pool now; the same object until something visible changes."""
        ...

    def details(self) -> Mapping[InstanceId, MemberDetail]:
        """Each member's detail by instance, read now."""
        ...

    def status(self) -> Status:
        """This sidecar, read now."""
        ...

    def unready(self) -> str | None:
        """Why no new work should be sent here, in words ("the worker is draining"); None when it may."""
        ...

    def drain(self) -> None:
        """Take this worker out of new work; what it has begun, it ends."""
        ...

    def undrain(self) -> None:
        """Put it back as soon as its check passes. Does nothing once leaving has begun."""
        ...

    def keys(self) -> KeysAnswer:
        """Ask everyone which keys it holds, or go on asking; what has been heard so far."""
        ...

    def proves_key(self, proof: bytes, text: bytes) -> bool:
        """Whether whoever said this text holds one of the pool's keys (gossip.keyring.proof_of)."""
        ...

    def install_key(self, text: str) -> None:
        """Accept one more key, everywhere. Raises :class:`CommandRejected`; never shows the key."""
        ...

    def use_key(self, key_id: str) -> None:
        """Seal with this key from now on, everywhere. Raises :class:`CommandRejected`."""
        ...

    def remove_key(self, key_id: str) -> None:
        """Accept this key no longer, anywhere. Raises :class:`CommandRejected`."""
        ...

    def policies(self) -> Sequence[PolicyRecord]:
        """The pool's policies, read now."""
        ...

    def policy_history(self) -> Sequence[tuple[PolicyRecord, str]]:
        """The last policies learned here, oldest first, each with its words."""
        ...

    def write_policy(self, service: str, body: PolicyBody) -> PolicyRecord:
        """Make this the pool's policy. Raises :class:`CommandRejected`."""
        ...

    def reload(self) -> None:
        """Have the settings read again, and put into force what can change."""
        ...

    def leave(self) -> None:
        """Begin to leave the pool for good. The sidecar closes the endpoint when that is said."""
        ...
