"""Checks that the settings make sense together. Each rule is one function and raises one error with a hint."""

from __future__ import annotations

import difflib
import ipaddress
import re
import socket

import msgspec

from rumormill.membership.record import (
    COUNTER_LIMIT,
    MAX_OWN_RECORD_BYTES,
    MAX_PERIOD,
    MAX_PROBATION,
    InvalidRecord,
    Record,
    validate_record,
)
from rumormill.sidecar.engines import ENGINES
from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.probes.specification import NO_PROBE
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import NO_CHECK, BadValue, HostPort, Seconds, WorkerUrl

_DNS_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def validated(settings: Settings) -> Settings:
    """The same settings, with host names resolved and the advertised address filled in. Raises :class:`SettingsError`.

    With a gossip port of 0 the advertised port stays 0 until the socket is bound.
    """
    settings = _with_engine_defaults(_resolved(settings))
    _check_times(settings)
    _check_advertised(settings)
    _check_worker(settings)
    _check_http(settings)
    _check_dns_domain(settings)
    _check_sealing(settings)
    _check_join(settings)
    _check_record(settings)
    return settings


def _resolved(settings: Settings) -> Settings:
    gossip = _resolve("gossip", settings.gossip)
    if settings.advertise is None and gossip.wildcard:
        raise SettingsError(
            f"--gossip {gossip} listens on every address, so --advertise must say which one other members use",
            f"add --advertise with an address of this machine: --advertise 10.0.0.5:{gossip.port}",
        )
    advertise = gossip if settings.advertise is None else _resolve("advertise", settings.advertise)
    others = {key: getattr(settings, key) for key in ("haproxy_agent", "dns")}
    resolved = {key: _resolve(key.replace("_", "-"), value) for key, value in others.items() if value is not None}
    http = _resolve("http", settings.http)
    return msgspec.structs.replace(settings, gossip=gossip, advertise=advertise, http=http, **resolved)


def _resolve(key: str, endpoint: HostPort) -> HostPort:
    try:
        return endpoint.resolved()
    except BadValue as error:
        raise SettingsError(f"--{key}: {error}", error.hint) from None


def _with_engine_defaults(settings: Settings) -> Settings:
    """The same settings, with what the engine's profile says where nothing else was given."""
    profile = ENGINES.get(settings.engine)
    if profile is None:
        close = difflib.get_close_matches(settings.engine.lower(), ENGINES, n=1, cutoff=0.4)
        known = f"the known ones are {', '.join(ENGINES)}"
        raise SettingsError(
            f"--engine {settings.engine!r} is not known", f"did you mean {close[0]!r}? {known}" if close else known
        )
    timeout = settings.worker_check_timeout
    return msgspec.structs.replace(
        settings,
        worker_check=profile.readiness_path if settings.worker_check is None else settings.worker_check,
        worker_check_timeout=Seconds(profile.readiness_timeout) if timeout is None else timeout,
    )


def _check_times(settings: Settings) -> None:
    for key, value, least, most in (
        ("period", settings.period, 0.02, 10.0),
        ("worker-check-period", settings.worker_check_period, 0.02, 3600.0),
        ("worker-check-timeout", settings.worker_check_timeout or 0.0, 0.02, 3600.0),
        ("stall-time", settings.stall_time, 0.1, 3600.0),
        ("restart-after", settings.restart_after, 1.0, 86400.0),
        ("drain-time", settings.drain_time, 0.0, 3600.0),
        ("probation", settings.probation, 0.0, 300.0),
        ("isolation-hold", settings.isolation_hold, 1.0, 86400.0),
        ("command-timeout", settings.command_timeout, 0.1, 3600.0),
    ):
        if not least <= value <= most:
            raise SettingsError(
                f"--{key} {value} is out of range", f"choose a value from {least * 1000:g}ms to {most:g}s"
            )


def _check_advertised(settings: Settings) -> None:
    advertise = settings.advertised_address
    if advertise.wildcard or (advertise.ip is not None and advertise.ip.is_multicast):
        raise SettingsError(
            f"--advertise {advertise} is not the address of one machine",
            "give the address at which other sidecars reach this machine",
        )
    if advertise.family != settings.gossip.family:
        raise SettingsError(
            f"--advertise {advertise} and --gossip {settings.gossip} are of different IP versions",
            "use IPv4 or IPv6 for both",
        )


def _check_worker(settings: Settings) -> None:
    path = settings.worker_check or ""
    if path == NO_CHECK:
        _refuse_unwatched(settings)
    elif not path.startswith("/") or any(c.isspace() or not c.isprintable() for c in path):
        raise SettingsError(f"--worker-check {settings.worker_check!r} is not a path", "write it like /health")
    if settings.worker_pid is not None and settings.worker_pid_file is not None:
        raise SettingsError("--worker-pid and --worker-pid-file exclude each other", "remove --worker-pid")
    if settings.worker_pid is not None and settings.worker_pid.number is None and not is_local(settings.worker):
        raise SettingsError(
            f"--worker-pid auto needs a worker on this machine, and {settings.worker} is on another",
            "remove --worker-pid, or run the agent beside the worker",
        )
    advertise = settings.advertised_address
    advertised = settings.advertise_worker or settings.worker
    host = advertised.endpoint.host
    if advertised.endpoint.wildcard:
        raise SettingsError(f"callers cannot be sent to {advertised}", _advertise_worker_hint(settings, advertised))
    if advertised.endpoint.loopback and not advertise.loopback:
        raise SettingsError(
            f"callers on other machines would be sent to {host}, their own loopback",
            _advertise_worker_hint(settings, advertised),
        )


def is_local(worker: WorkerUrl) -> bool:
    """Whether the URL names this machine. Host names other than localhost count: where they resolve to may change."""
    endpoint = worker.endpoint
    return endpoint.ip is None or endpoint.loopback or endpoint.of_this_machine


def _refuse_unwatched(settings: Settings) -> None:
    """Without a check, a probe must tell whether the worker is there."""
    if settings.probe == NO_PROBE or (not settings.probe and settings.probe_file is None):
        raise SettingsError(
            "--worker-check none leaves nobody to look at the worker",
            "add --probe or --probe-file: grpc, tcp and command need no HTTP",
        )


def _advertise_worker_hint(settings: Settings, advertised: WorkerUrl) -> str:
    advertise = settings.advertised_address
    reachable = HostPort(advertise.host, advertised.endpoint.port)
    scheme = "https" if advertised.secure else "http"
    return f"give the URL at which callers reach the worker: --advertise-worker {scheme}://{reachable}{advertised.path}"


def _check_http(settings: Settings) -> None:
    tls = (settings.http_cert, settings.http_key)
    if None in tls and tls != (None, None):
        raise SettingsError("--http-cert and --http-key need each other", "give both, or neither")
    if settings.http_ca and not settings.http_cert:
        raise SettingsError("--http-ca needs TLS", "add --http-cert and --http-key")
    if settings.http.path and settings.http_cert:
        raise SettingsError(
            "TLS is not available on a Unix socket: the file's permissions control access",
            "remove --http-cert and --http-key",
        )
    protected = settings.http_ca or settings.http_token_file
    if not (settings.http.local or protected or settings.http_insecure):
        raise SettingsError(
            f"--http {settings.http} would answer anyone on the network",
            "add --http-token-file; or --http-cert, --http-key and --http-ca; or --http-insecure; or use 127.0.0.1",
        )
    if settings.http_insecure and protected:
        raise SettingsError(
            "--http-insecure excludes --http-token-file and --http-ca, which protect the endpoint", "remove one of them"
        )


def _check_dns_domain(settings: Settings) -> None:
    labels = settings.dns_domain.strip(".").split(".")
    if len(settings.dns_domain) > 100 or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise SettingsError(
            f"--dns-domain {settings.dns_domain} is not a domain",
            "use letters, digits, hyphens and dots, such as rumormill or pool.example",
        )


def _check_sealing(settings: Settings) -> None:
    if settings.key_file is None and not settings.insecure_plaintext:
        raise SettingsError(
            "gossip is sealed, and there is no key",
            "rumormill keys generate --out rumormill.key, then --key-file rumormill.key (the same on every machine)",
        )
    if settings.key_file is not None and settings.insecure_plaintext:
        raise SettingsError(
            "--key-file and --insecure-plaintext exclude each other",
            "remove one of them; a key file can also come from RUMORMILL_KEY_FILE or from --config",
        )
    if (settings.ca_file is None) is not (settings.identity_file is None):
        raise SettingsError(
            "--ca-file and --identity-file need each other: with an authority, every member needs an identity",
            f"rumormill keys issue {settings.name} --ca pool.ca --out {settings.name}.identity",
        )


def _check_join(settings: Settings) -> None:
    for seed in settings.join:
        if seed.port == 0:
            raise SettingsError(f"--join {seed} has port 0", "give the gossip port of the other member")
        try:
            wildcard = ipaddress.ip_address(seed.host).is_unspecified
        except ValueError:
            continue
        if wildcard:
            raise SettingsError(f"--join {seed} is not the address of one machine", "give the address of one member")
        _check_reachable(settings, seed)


def _check_reachable(settings: Settings, seed: HostPort) -> None:
    """Refuse a seed on another machine if this member uses a loopback address. Host names are checked later, when they
    are resolved."""
    if seed.loopback or seed.of_this_machine:
        return
    for flag, ours in (("--gossip", settings.gossip), ("--advertise", settings.advertised_address)):
        if ours.loopback:
            own = HostPort(_own_address_towards(seed), ours.port)
            raise SettingsError(
                f"{flag} {ours} is a loopback address, so --join {seed} on another machine cannot be reached",
                f"give the address at which other machines reach this one: {flag} {own}",
            )


def _own_address_towards(seed: HostPort) -> str:
    """The address of this machine from which the kernel would send to the seed. Nothing is sent."""
    try:
        with socket.socket(seed.family, socket.SOCK_DGRAM) as probe:
            probe.connect((seed.host, seed.port))
            return str(probe.getsockname()[0])
    except OSError:  # there is no route yet: show an example
        return "10.0.0.5" if seed.family == socket.AF_INET else "2001:db8::5"


def _check_record(settings: Settings) -> None:
    """The longest record that this member can have must be valid."""
    advertise = settings.advertised_address
    try:
        validate_record(
            Record(
                name=settings.name,
                generation=COUNTER_LIMIT - 1,
                incarnation=COUNTER_LIMIT - 1,
                pending=False,
                keys=bytes(64),
                host=advertise.host,
                port=advertise.port or 1,
                service=settings.service,
                url=settings.worker_url,
                zone=settings.zone,
                release=settings.release,
                weight=round(settings.weight * 1000),
                tags=settings.tag,
                certificate=bytes(64),
                probation=MAX_PROBATION,
                period=MAX_PERIOD,
            ),
            MAX_OWN_RECORD_BYTES,
        )
    except InvalidRecord as error:
        hint = (
            "remove line breaks, tabs and other control characters"
            if "printed" in str(error)
            else "every member keeps it in memory: make it shorter"
        )
        raise SettingsError(str(error), hint) from None
    if settings.weight and not round(settings.weight * 1000):
        raise SettingsError(
            f"--weight {settings.weight} is less than 0.001", "give at least 0.001, or 0 for no traffic"
        )
