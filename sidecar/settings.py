"""What an agent is told, in one structure. Its fields are the settings.

The command line's flags (``--key-file``), the variables (``RUMORMILL_KEY_FILE``) and the TOML keys (``key-file``) are
all made from them; :mod:`rumormill.sidecar.settings_sources` reads those.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import msgspec
from msgspec import Meta

from rumormill.membership.record import MAX_NAME_BYTES
from rumormill.sidecar.settings_values import HostPort, HttpAddress, Seconds, WorkerUrl

Label = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]


def _about(text: str, metavar: str = "TEXT") -> Meta:
    return Meta(description=text, extra={"metavar": metavar})


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Everything an agent is told. Times in seconds; hosts are IP literals once :mod:`sources` has read them."""

    name: Annotated[Label, _about("This member's name, unique in the pool.", "NAME")]
    cluster: Annotated[Label, _about("The pool's label: nothing crosses labels.", "LABEL")]
    service: Annotated[Label, _about("What callers ask the pool for.", "NAME")]
    worker: Annotated[WorkerUrl, _about("Where this sidecar reaches its worker.", "URL")]
    gossip: Annotated[HostPort, _about("UDP address to gossip on.", "HOST:PORT")] = HostPort("127.0.0.1", 7946)
    http: Annotated[
        HttpAddress, _about("Address of the discovery endpoint; unix:PATH for a socket of mode 0600.", "HOST:PORT")
    ] = HttpAddress("127.0.0.1", 7380)
    join: Annotated[
        tuple[HostPort, ...],
        _about(
            "A member to join; repeat it. Names are resolved again for ever, and nobody need be there yet.", "HOST:PORT"
        ),
    ] = ()
    zone: Annotated[str, _about("Where it runs; callers can prefer their own zone.")] = ""
    release: Annotated[str, _about("The model version the worker runs.")] = ""
    weight: Annotated[float, Meta(ge=0, le=1000), _about("Share of keys beside a worker of weight 1.", "NUMBER")] = 1.0
    tag: Annotated[dict[str, str], _about("A word to callers about this worker; repeat it.", "KEY=VALUE")] = {}
    key_file: Annotated[Path | None, _about("Group keys, one base64 line each; mode 0600.", "FILE")] = None
    ca_file: Annotated[
        Path | None, _about("The pool's authority (public): only names it issued can be members.", "FILE")
    ] = None
    identity_file: Annotated[
        Path | None, _about("What the authority issued to this member; mode 0600. Goes with --ca-file.", "FILE")
    ] = None
    insecure_plaintext: Annotated[bool, _about("Gossip unsealed: for a laptop, never for a network.")] = False
    advertise: Annotated[
        HostPort | None,
        _about("UDP address the others reach this one at. Default: the address it is bound to.", "HOST:PORT"),
    ] = None
    advertise_worker: Annotated[
        WorkerUrl | None, _about("Where callers reach the worker. Default: what --worker says.", "URL")
    ] = None
    worker_pid: Annotated[
        Annotated[int, Meta(ge=1)] | None, _about("The worker's process: its crash is told to the pool at once.", "PID")
    ] = None
    worker_pid_file: Annotated[
        Path | None, _about("A file that holds it, looked at again after a restart of the worker.", "FILE")
    ] = None
    worker_check: Annotated[str, _about("Path that answers 200..299 while the worker can serve.", "PATH")] = "/health"
    worker_check_period: Annotated[
        Seconds, _about("Time between checks; three misses in a row are critical.", "TIME")
    ] = Seconds(1)
    worker_check_timeout: Annotated[
        Seconds, _about("How long a check may take; more, and a worker that hangs is found so much later.", "TIME")
    ] = Seconds(3)
    drain_time: Annotated[
        Seconds, _about("How long a SIGTERM lets callers finish before this member leaves.", "TIME")
    ] = Seconds(1)
    period: Annotated[Seconds, _about("Heartbeat period; equal throughout the pool.", "TIME")] = Seconds(0.2)
    no_icmp_evidence: Annotated[
        bool, _about("Do not let ICMP refusals speed up detection: every death takes three missed heartbeats.")
    ] = False
    probation: Annotated[
        Seconds, _about("Out of new work after a third start in a minute, then three times as long; 0s: never.", "TIME")
    ] = Seconds(5)
    policy_key: Annotated[
        Path | None, _about("Believe only policies signed by this key; rumormill keys policy makes one.", "FILE")
    ] = None
    snapshot: Annotated[Path | None, _about("Remembers addresses and generation across restarts.", "FILE")] = None
    http_token_file: Annotated[
        Path | None, _about("Callers must send this bearer token, and may then read; mode 0600.", "FILE")
    ] = None
    http_change_token_file: Annotated[
        Path | None, _about("The token that may drain, leave and steer as well; mode 0600.", "FILE")
    ] = None
    http_cert: Annotated[Path | None, _about("Certificate chain (PEM) of the discovery endpoint.", "FILE")] = None
    http_key: Annotated[Path | None, _about("Its private key (PEM).", "FILE")] = None
    http_ca: Annotated[
        Path | None, _about("Mutual TLS: callers must show a certificate of these authorities (PEM).", "FILE")
    ] = None
    http_insecure: Annotated[bool, _about("Let anyone on the network read here.")] = False

    @property
    def reached_at(self) -> HostPort:
        """Where the others reach this member; its port is 0 until the socket is bound, where none was chosen."""
        return self.advertise or self.gossip

    @property
    def worker_url(self) -> str:
        """Where callers reach the worker: plain text, as it goes on the wire."""
        return str(self.advertise_worker or self.worker)


def fields() -> tuple[msgspec.structs.FieldInfo, ...]:
    """The settings, in the order people should read them."""
    return msgspec.structs.fields(Settings)


def description_of(field: msgspec.structs.FieldInfo) -> tuple[str, str]:
    """What a setting is for, and what to write for it: for help texts."""
    metas = [meta for meta in get_args(field.type) if isinstance(meta, Meta) and meta.description]
    meta = metas[0]
    return meta.description or "", (meta.extra or {})["metavar"]
