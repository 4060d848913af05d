"""The settings of an agent, as one structure.

The flags (``--key-file``), the environment variables (``RUMORMILL_KEY_FILE``) and the TOML keys (``key-file``) are all
derived from its fields. :mod:`rumormill.sidecar.settings_sources` reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import msgspec
from msgspec import Meta

from rumormill.discovery.formats import FormatName
from rumormill.membership.record import MAX_NAME_BYTES
from rumormill.sidecar.settings_values import HostPort, HttpAddress, LogFormat, LogLevel, Seconds, WorkerPid, WorkerUrl

Label = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]


def _about(text: str, metavar: str = "TEXT") -> Meta:
    return Meta(description=text, extra={"metavar": metavar})


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """All settings of an agent. Times are in seconds. Hosts are IP addresses once ``settings_sources`` has read them,
    except those to join."""

    name: Annotated[Label, _about("This member's name, unique in the pool.", "NAME")]
    cluster: Annotated[Label, _about("The pool's label: members with different labels ignore each other.", "LABEL")]
    service: Annotated[Label, _about("The service name that callers ask the pool for.", "NAME")]
    worker: Annotated[WorkerUrl, _about("URL at which this sidecar reaches its worker.", "URL")]
    gossip: Annotated[HostPort, _about("UDP address to gossip on.", "HOST:PORT")] = HostPort("127.0.0.1", 7946)
    http: Annotated[
        HttpAddress, _about("Address of the discovery endpoint; unix:PATH for a socket of mode 0600.", "HOST:PORT")
    ] = HttpAddress("127.0.0.1", 7380)
    join: Annotated[
        tuple[HostPort, ...],
        _about(
            "A member to join; can be repeated. Names are resolved again and again; the member may start later.",
            "HOST:PORT",
        ),
    ] = ()
    zone: Annotated[str, _about("The zone the worker runs in; callers can prefer workers in their own zone.")] = ""
    release: Annotated[str, _about("The model version the worker runs.")] = ""
    weight: Annotated[
        float,
        Meta(ge=0, le=1000),
        _about("Share of the keys, relative to a worker of weight 1; 0 for no traffic.", "NUMBER"),
    ] = 1.0
    tag: Annotated[
        dict[str, str], _about("A tag that callers see with this worker; can be repeated.", "KEY=VALUE")
    ] = {}
    key_file: Annotated[Path | None, _about("The group keys, one base64 line each; mode 0600.", "FILE")] = None
    ca_file: Annotated[
        Path | None, _about("Public key of the pool's authority: only names that it issued can be members.", "FILE")
    ] = None
    identity_file: Annotated[
        Path | None,
        _about("The identity that the authority issued to this member; mode 0600. Needs --ca-file.", "FILE"),
    ] = None
    insecure_plaintext: Annotated[
        bool, _about("Do not encrypt gossip: only for tests on one machine, never on a network.")
    ] = False
    advertise: Annotated[
        HostPort | None,
        _about("UDP address at which other members reach this one. Default: the --gossip address.", "HOST:PORT"),
    ] = None
    advertise_worker: Annotated[
        WorkerUrl | None, _about("URL at which callers reach the worker. Default: the --worker URL.", "URL")
    ] = None
    worker_pid: Annotated[
        WorkerPid | None,
        _about(
            "The worker's process, so that the pool learns of a crash at once: its id, or auto for whichever process "
            "of this machine listens at the --worker URL. It is followed through restarts.",
            "PID",
        ),
    ] = None
    worker_pid_file: Annotated[
        Path | None, _about("A file with the worker's process id, read again after a restart of the worker.", "FILE")
    ] = None
    engine: Annotated[
        str,
        _about(
            "What the worker runs: vllm, sglang, triton, tgi, llama.cpp, ollama, openai, kserve-v2 or http. It says "
            "how the worker is checked and where its counters are.",
            "NAME",
        ),
    ] = "http"
    worker_check: Annotated[
        str | None,
        _about(
            "Path that answers 2xx while the worker can serve; none if it speaks no HTTP. Default: the engine's.",
            "PATH",
        ),
    ] = None
    worker_check_period: Annotated[
        Seconds, _about("Time between checks; three misses in a row make the worker critical.", "TIME")
    ] = Seconds(1)
    worker_check_timeout: Annotated[
        Seconds | None,
        _about(
            "Time a check may take; with a larger value a hanging worker is found later. Default: the engine's.", "TIME"
        ),
    ] = None
    worker_metrics: Annotated[
        WorkerUrl | None, _about("URL of the page with the engine's counters. Default: the engine's.", "URL")
    ] = None
    worker_capacity: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        _about("Requests that the worker works on at once at most. Default: the engine's, if it has one.", "NUMBER"),
    ] = None
    stall_time: Annotated[
        Seconds,
        _about("Time for which requests may wait or run while no counter of the engine moves.", "TIME"),
    ] = Seconds(5)
    restart_after: Annotated[
        Seconds, _about("Time of a stall after which /worker/livez asks for a restart of the worker.", "TIME")
    ] = Seconds(180)
    probe: Annotated[
        str,
        _about(
            "What is asked to see that the engine computes: embeddings, chat, completions, kserve, http, grpc, tcp, "
            "command or none.",
            "KIND",
        ),
    ] = ""
    probe_file: Annotated[
        Path | None, _about("TOML file that says what the probe asks and expects; see docs/run/probes.md.", "FILE")
    ] = None
    drain_time: Annotated[
        Seconds, _about("Time that callers get to finish after SIGTERM, before this member leaves.", "TIME")
    ] = Seconds(1)
    on_passing: Annotated[str, _about("Shell command to run when the worker becomes passing.", "COMMAND")] = ""
    on_warning: Annotated[str, _about("Shell command to run when it becomes warning.", "COMMAND")] = ""
    on_critical: Annotated[str, _about("Shell command to run when it becomes critical.", "COMMAND")] = ""
    on_draining: Annotated[str, _about("Shell command to run when it becomes draining.", "COMMAND")] = ""
    on_change: Annotated[
        str, _about("Shell command to run at each of these changes. RUMORMILL_STATE has the new state.", "COMMAND")
    ] = ""
    command_timeout: Annotated[Seconds, _about("Time after which such a command is killed.", "TIME")] = Seconds(10)
    drain_deadline: Annotated[
        Seconds, _about("Time that requests in flight get after SIGTERM, if the engine or callers count them.", "TIME")
    ] = Seconds(30)
    period: Annotated[Seconds, _about("Heartbeat period; must be the same for all members.", "TIME")] = Seconds(0.2)
    no_icmp_evidence: Annotated[
        bool, _about("Ignore ICMP errors; every failure is then detected by three missed heartbeats.")
    ] = False
    probation: Annotated[
        Seconds,
        _about("Time without new work after a third start in a minute; triples each time; 0s for none.", "TIME"),
    ] = Seconds(5)
    isolation_hold: Annotated[
        Seconds,
        _about(
            "Time for which a member that is cut off, or lost most of the others at once, keeps its view before it "
            "evicts them.",
            "TIME",
        ),
    ] = Seconds(60)
    policy_key: Annotated[
        Path | None, _about("Accept only policies signed by this key; `rumormill keys policy` makes one.", "FILE")
    ] = None
    snapshot: Annotated[
        Path | None, _about("File that keeps addresses, policies and the generation across restarts.", "FILE")
    ] = None
    log_format: Annotated[LogFormat, _about("json, text, or auto: text on a terminal, else JSON.", "FORMAT")] = "auto"
    log_level: Annotated[LogLevel, _about("Lowest level that is logged: info, warning or error.", "LEVEL")] = "info"
    record: Annotated[
        int,
        Meta(ge=0, le=1024),
        _about("Megabytes of memory for the flight recorder, which keeps the last minutes; 0 turns it off.", "MB"),
    ] = 8
    record_dir: Annotated[
        Path | None,
        _about(
            "Folder for a record of each incident: this member was cut off, paused, killed, lost its name, or crashed.",
            "DIR",
        ),
    ] = None
    http_token_file: Annotated[
        Path | None, _about("Bearer token that callers must send to read; mode 0600.", "FILE")
    ] = None
    http_change_token_file: Annotated[
        Path | None, _about("Bearer token that callers must send to change anything; mode 0600.", "FILE")
    ] = None
    http_cert: Annotated[Path | None, _about("Certificate chain (PEM) of the discovery endpoint.", "FILE")] = None
    http_key: Annotated[Path | None, _about("Its private key (PEM).", "FILE")] = None
    http_ca: Annotated[
        Path | None, _about("Mutual TLS: callers must present a certificate of these authorities (PEM).", "FILE")
    ] = None
    http_insecure: Annotated[bool, _about("Let anyone on the network use the endpoint without authentication.")] = False
    haproxy_agent: Annotated[
        HostPort | None, _about("TCP address at which HAProxy's agent checks are answered. Default: none.", "HOST:PORT")
    ] = None
    dns: Annotated[
        HostPort | None, _about("UDP and TCP address of a DNS server for the pool. Default: none.", "HOST:PORT")
    ] = None
    dns_domain: Annotated[Label, _about("The domain that the DNS server answers for.", "DOMAIN")] = "rumormill"
    disable_format: Annotated[
        tuple[FormatName, ...],
        _about(
            "Do not answer in this format: text, prometheus, consul, envoy or traefik; can be repeated.",
            "NAME",
        ),
    ] = ()

    @property
    def advertised_address(self) -> HostPort:
        """The address at which the others reach this member. A port of 0 stays 0 until the socket is bound."""
        return self.advertise or self.gossip

    @property
    def worker_url(self) -> str:
        """The URL at which callers reach the worker, as plain text for the wire."""
        return str(self.advertise_worker or self.worker)


def fields() -> tuple[msgspec.structs.FieldInfo, ...]:
    """The settings, in the order in which they are documented."""
    return msgspec.structs.fields(Settings)


def description_of(field: msgspec.structs.FieldInfo) -> tuple[str, str]:
    """The description and the metavar of a setting, for help texts."""
    metas = [meta for meta in get_args(field.type) if isinstance(meta, Meta) and meta.description]
    meta = metas[0]
    return meta.description or "", (meta.extra or {})["metavar"]
