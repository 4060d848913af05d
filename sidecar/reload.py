"""Reloads the settings of a running agent: SIGHUP and ``POST /v1/reload`` make it read all sources again.

Either all new settings are accepted or none. If one is invalid, the error is logged and the old settings stay. Changed
settings that need a restart are named in the log and in the status.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import trio

from rumormill.discovery.http.access import Access
from rumormill.gossip import KeyRing
from rumormill.sidecar.engines import ENGINES, ProbeKind
from rumormill.sidecar.errors import AgentError, SettingsError
from rumormill.sidecar.key_file import read_key_file
from rumormill.sidecar.log import Log
from rumormill.sidecar.probes.outcome import Probe
from rumormill.sidecar.probes.specification import ProbeSpec
from rumormill.sidecar.secrets import MAX_BYTES, read_token_file
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_check import validated
from rumormill.sidecar.tls import Certificate, TlsFiles, read_certificate

CHANGEABLE: Final = frozenset(
    {
        "worker",
        "advertise_worker",
        "worker_check",
        "worker_check_period",
        "engine",
        "worker_metrics",
        "worker_capacity",
        "stall_time",
        "restart_after",
        "worker_check_timeout",
        "probe",
        "probe_file",
        "worker_pid",
        "worker_pid_file",
        "zone",
        "release",
        "weight",
        "tag",
        "drain_time",
        "on_passing",
        "on_warning",
        "on_critical",
        "on_draining",
        "on_change",
        "command_timeout",
        "log_level",
        "http_token_file",
        "http_change_token_file",
        "http_insecure",
    }
)
"""Settings that can change while the agent runs."""
TLS: Final = frozenset({"http_cert", "http_key", "http_ca"})
"""Settings that can change too if the endpoint uses TLS before and after the reload."""
READ_ONCE: Final = ("ca_file", "identity_file", "policy_key")
"""Settings whose files are read at the start only. So is the key file, but the agent itself rewrites that one."""


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """The settings, and the content of those of their files that can change."""

    settings: Settings
    access: Access
    certificate: Certificate | None
    read_once: tuple[bytes, ...]
    """Digests of the files in :data:`READ_ONCE`."""
    probe_spec: ProbeSpec | None = None
    probe: Probe | None = None
    """The probe of the worker; None if there is none."""


def read_runtime_config(settings: Settings) -> RuntimeConfig:
    """Read the files that the settings name. Blocks for the disk. Raises :class:`SettingsError`."""
    files = TlsFiles.of(settings)
    spec, probe = read_probe(settings)
    return RuntimeConfig(
        settings,
        read_access(settings),
        read_certificate(files) if files else None,
        tuple(_digest(getattr(settings, name)) for name in READ_ONCE),
        spec,
        probe,
    )


def read_probe(settings: Settings) -> tuple[ProbeSpec | None, Probe | None]:
    """The probe that the settings ask for, its files read. Raises :class:`SettingsError`."""
    default = ENGINES[settings.engine].probe.value
    if not settings.probe and settings.probe_file is None and default == ProbeKind.NONE.value:
        return None, None
    from rumormill.sidecar.probes.build import build_probe, probe_spec  # an agent without a probe does not load it

    spec = probe_spec(settings.probe, settings.probe_file, default)
    return spec, None if spec is None else build_probe(spec, settings.worker)


def left_out_probe(config: RuntimeConfig) -> str:
    """Why the probe of the worker's engine is not used, in words; empty if it is, or if none is wanted."""
    profile = ENGINES[config.settings.engine]
    if config.probe is not None or config.settings.probe or profile.probe is ProbeKind.NONE:
        return ""
    return f"the {profile.probe.value} probe of {profile.title} needs --probe-file: the engine is not probed"


def read_access(settings: Settings) -> Access:
    """How callers of the endpoint must authenticate. Raises :class:`SettingsError` for an unusable token file."""
    reading, changing = (
        read_token_file(path) if path else None for path in (settings.http_token_file, settings.http_change_token_file)
    )
    if reading is not None and reading == changing:
        raise SettingsError(
            "--http-token-file and --http-change-token-file hold the same token",
            "every caller has the first token: put another one into --http-change-token-file",
        )
    return Access(
        read_token=reading,
        change_token=changing,
        local=settings.http.local,
        mutual_tls=settings.http_ca is not None,
        encrypted=settings.http_cert is not None,
        by_host_name=settings.http.path is None,
    )


def _digest(path: Path | None) -> bytes:
    try:
        return b"" if path is None else hashlib.sha256(path.open("rb").read(MAX_BYTES)).digest()
    except OSError:
        return b""


def merge_changeable(old: Settings, asked: Settings) -> Settings:
    """The old settings, with the new values of those that can change at run time.

    Raises :class:`SettingsError` if that mixture is invalid, because it would need a change of another setting.
    """
    changeable = CHANGEABLE | TLS if (old.http_cert is None) is (asked.http_cert is None) else CHANGEABLE
    names = [field.name for field in msgspec.structs.fields(Settings) if field.name in changeable]
    return validated(msgspec.structs.replace(old, **{name: getattr(asked, name) for name in names}))


def changed_settings(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that differ, in the order of the documentation."""
    return [
        field.encode_name
        for field in msgspec.structs.fields(Settings)
        if getattr(old, field.name) != getattr(new, field.name)
    ]


def list_changes(old: RuntimeConfig, new: RuntimeConfig) -> list[str]:
    """The names of the settings that have changed. A new token in the same file counts. New certificates are logged by
    :class:`CertificateReloader`."""
    names = changed_settings(old.settings, new.settings)
    content = {
        "http-token-file": old.access.read_token != new.access.read_token,
        "http-change-token-file": old.access.change_token != new.access.change_token,
        "probe-file": old.probe_spec != new.probe_spec,
    }
    return names + [name for name, changed in content.items() if changed and name not in names]


def pending_restart(old: RuntimeConfig, new: RuntimeConfig, asked: Settings) -> list[str]:
    """The names of the changed settings that need a restart."""
    names = changed_settings(new.settings, asked)
    kebab = {field.name: field.encode_name for field in msgspec.structs.fields(Settings)}
    digests = zip(READ_ONCE, old.read_once, new.read_once, strict=True)
    files = [kebab[name] for name, was, found in digests if was != found]
    return names + [name for name in files if name not in names]


class Reloader:
    """Reads the settings again on request.

    ``read`` returns the new settings; it blocks, and raises :class:`AgentError`. ``apply`` makes the agent use them.
    ``keys`` returns the pool's current key ring.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        read: Callable[[], Settings],
        apply: Callable[[RuntimeConfig], None],
        keys: Callable[[], KeyRing | None],
        log: Log,
    ) -> None:
        self.config = config
        self._read = read
        self._apply = apply
        self._keys = keys
        self._log = log
        self._requested = trio.Event()
        self.trouble = ""
        """Why the settings last read are not all in use; empty if they are."""

    def request(self) -> None:
        """Read the settings again soon."""
        self._requested.set()

    async def watch_signals(self) -> None:
        """Request a reload at each SIGHUP, forever."""
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                self.request()

    async def run(self) -> None:
        """Reload at each request, forever."""
        while True:
            await self._requested.wait()
            self._requested = trio.Event()
            await self.reload()

    async def reload(self) -> None:
        """Read all sources in a thread, because names are resolved, and apply what can change at run time."""
        try:
            new, restart = await trio.to_thread.run_sync(self._load, abandon_on_cancel=True)
        except AgentError as error:
            self.trouble = error.message
            self._log.error("reload", trouble=error.message, hint=error.hint, text="the old settings stay in use")
            return
        changed = list_changes(self.config, new)
        self.trouble = f"needs a restart: {', '.join(restart)}" if restart else ""
        self.config = replace(new, read_once=self.config.read_once)
        self._apply(new)
        if restart:
            self._log.warning("reload", changed=changed, text=self.trouble)
        else:
            self._log.info("reload", changed=changed)

    def _load(self) -> tuple[RuntimeConfig, list[str]]:
        asked = self._read()
        new = read_runtime_config(merge_changeable(self.config.settings, asked))
        restart = pending_restart(self.config, new, asked)
        path = new.settings.key_file
        if path is not None and "key-file" not in restart and read_key_file(path).ring != self._keys():
            restart.append("key-file (use `rumormill keys` to change the keys of a running pool)")
        return new, restart
