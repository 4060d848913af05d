"""What the endpoint may read from the sidecar, and what it may make it do.

Discovery changes nothing by itself: every effect goes through this protocol, which the sidecar implements. All methods
are synchronous, return at once, and are safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from rumormill.discovery.activity import Activity
from rumormill.discovery.schema.policy_bodies import PolicyBody
from rumormill.membership.measurements import GossipMeasurements, Histogram
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import InstanceId
from rumormill.membership.view import ConnectivityWord, MemberDetail, PoolView
from rumormill.ring.worker import ReadinessWord

SettingValue = str | int | float | bool | list[str] | None


class GpuRow(msgspec.Struct, frozen=True):
    """One NVIDIA GPU of the sidecar's machine, as NVML says."""

    index: int
    """NVML's number of the GPU; ``CUDA_VISIBLE_DEVICES`` may number them otherwise."""
    name: str
    """The GPU's model."""
    utilization: float | None
    """Fraction of the last sampling interval in which it computed, 0 to 1; null if it does not say."""
    memory_used: int | None
    """Bytes; null if it does not say."""
    memory_total: int | None
    """Bytes."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``GET /v1/status``: the state of this sidecar. It never contains secrets."""

    name: str
    cluster: str
    service: str
    process: str
    """Which run of the sidecar this is. Indexes count within one run."""
    generation: int
    instance: str
    """32 hexadecimal digits."""
    gossip: str
    """HOST:PORT at which the others reach this sidecar."""
    readiness: ReadinessWord
    readiness_why: str = ""
    """Why the worker is in this readiness, by what the sidecar has seen of it."""
    draining: bool
    unready: str
    """Why no new work should be sent here; empty if it may be."""
    joined: bool
    """Whether it knows of any other member."""
    isolated: bool
    """Whether it seems to be cut off. If so, it reports the last known state of the others."""
    connectivity: ConnectivityWord = "connected"
    """Its connection to the others: connected; isolated (too many are missing at once), deaf (it hears nobody), or mute
    (nobody hears it)."""
    connectivity_why: str = ""
    """What that means, in words ("the others hold this member dead: they do not hear it"); empty while connected."""
    stopped: str | None
    """Why it stopped (another member holds its name); null while it runs."""
    peers: int
    """Other members that are alive and not suspect."""
    suspects: int = 0
    """Suspect members: they have missed heartbeats and are not evicted yet."""
    table_digest: str
    """16 hexadecimal digits; equal where members know the same."""
    seal: str
    """``aes-256-gcm`` or ``plaintext``."""
    keys: int
    """Keys that open sealed datagrams; 0 in plaintext."""
    seal_trouble: str
    """What a member that was tried lately says about its own seal, unauthenticated; empty if nothing."""
    shares_worker_with: list[str]
    """Other members that serve the same service at the same URL. Their worker gets the load of all of them."""
    period_trouble: str = ""
    """Members with another heartbeat period than this sidecar; empty for none."""
    loop_lag: float
    """Seconds by which the event loop was late for its last deadline."""
    counters: dict[str, int]
    """Datagrams sent, received, dropped by reason, and so on, since the start."""
    settings: dict[str, SettingValue]
    """The settings in force, from all sources; paths in place of secrets."""
    settings_trouble: str = ""
    """Why some of the settings last read are not in force; empty if all are."""
    worker_process: str = ""
    """Which process of the worker is watched, in words; empty if none was configured."""
    utilization: float | None = None
    """How busy this sidecar's worker is, by its engine's counters; 1.0 is full, null if unknown."""
    queue: int | None = None
    """Requests that wait inside the worker; null if unknown."""
    load_age: float | None = None
    """Seconds since that was read; null if unknown."""
    gpus: Sequence[GpuRow] = ()
    """The machine's GPUs; empty without ``rumormill[gpu]`` or without any."""
    certificate_not_after: float | None = None
    """When the endpoint's certificate ends, in seconds since the epoch; null without TLS."""
    certificate_trouble: str = ""
    """Why its files differ from the certificate in force; empty if they do not."""


class KeyRow(msgspec.Struct, frozen=True):
    """One group key, by its id. The key itself is never returned."""

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
    """Which run of the sidecar answers. The proof for a change includes it."""
    version: int
    """How often the ring has been changed; 0 while it is as in the key files."""
    keys: list[KeyRow]
    members: int
    """Present members, this one included."""
    unanswered: list[str]
    """Members that have not reported which keys they hold."""
    behind: list[str]
    """Members that hold another ring than this sidecar."""
    settled: bool
    """Whether all present members hold the same ring, so that the next step of a rotation is safe."""
    file: str
    """Why this sidecar's own key file differs from the ring; empty if it does not."""


class SidecarMeasurements(NamedTuple):
    """What only `/metrics` shows."""

    gossip: GossipMeasurements
    loop_lag: Histogram
    """By how many seconds each timed wake-up of the gossip task was late."""


class CommandRejected(Exception):
    """A command that cannot be carried out now. Nothing has changed."""

    def __init__(self, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class Commands(Protocol):
    """What the endpoint may use of the sidecar."""

    def view(self) -> PoolView:
        """What the sidecar holds of the pool now; the same object until something visible changes."""
        ...

    @property
    def activity(self) -> Activity:
        """Loads, callers' reports and the drain."""
        ...

    def details(self) -> Mapping[InstanceId, MemberDetail]:
        """Each member's detail by instance, read now."""
        ...

    def status(self) -> Status:
        """This sidecar, read now."""
        ...

    def measurements(self) -> SidecarMeasurements:
        """What the sidecar measures of itself, read now."""
        ...

    def record(self) -> bytes:
        """The flight recorder's record (recording/file_format.py). Raises :class:`CommandRejected` if there is none."""
        ...

    def unready(self) -> str | None:
        """Why no new work should be sent here, in words ("the worker is draining"); None if it may be."""
        ...

    def worker_restart_reason(self) -> str | None:
        """Why the worker's process should be restarted, in words; None if it should not."""
        ...

    def drain(self, *, restart: bool = False) -> None:
        """Give this worker no new work; it completes what it has begun. With ``restart``, until it has restarted."""
        ...

    def undrain(self) -> None:
        """Give it work again as soon as its check passes. Does nothing after leaving has begun."""
        ...

    def keys(self) -> KeysAnswer:
        """What is known of the keys that each member holds. Starts or continues to ask them."""
        ...

    def proves_key(self, proof: bytes, text: bytes) -> bool:
        """Whether this proof over the text was made with one of the pool's keys (gossip.keyring.proof_of)."""
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
        """The last policies learned here, oldest first, each with its description."""
        ...

    def write_policy(self, service: str, body: PolicyBody) -> PolicyRecord:
        """Make this the pool's policy. Raises :class:`CommandRejected`."""
        ...

    def set_weight(self, weight: float) -> None:
        """Give this worker another weight until the settings are read again. Raises :class:`CommandRejected`."""
        ...

    def reload(self) -> None:
        """Read the settings again, and apply those that can change."""
        ...

    def leave(self) -> None:
        """Begin to leave the pool permanently. The sidecar closes the endpoint after it has announced that."""
        ...
