"""New settings for a running agent: on SIGHUP and ``POST /v1/reload`` every source of settings is read again.

All of them are believed, or none: where one will not do, that is logged and the old ones stay in force. What cannot
change while the agent runs is named, with the change that was asked for still to come.
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
from rumormill.sidecar.errors import AgentError, SettingsError
from rumormill.sidecar.key_file import read_key_file
from rumormill.sidecar.log import Log
from rumormill.sidecar.secrets import MAX_BYTES, read_token_file
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_check import checked
from rumormill.sidecar.tls import Certificate, TlsFiles, read_certificate

CHANGEABLE: Final = frozenset(
    {
        "worker",
        "advertise_worker",
        "worker_check",
        "worker_check_period",
        "worker_check_timeout",
        "worker_pid",
        "worker_pid_file",
        "zone",
        "release",
        "weight",
        "tag",
        "drain_time",
        "http_token_file",
        "http_change_token_file",
        "http_insecure",
    }
)
"""What can change while the agent runs."""
TLS: Final = frozenset({"http_cert", "http_key", "http_ca"})
"""What can too, where the endpoint speaks TLS before and after."""
READ_ONCE: Final = ("ca_file", "identity_file", "policy_key")
"""Files whose content is read at the start only. The key file's is too, but the pool's ring is written into it."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The settings, with what stands in the files that they name and that can change."""

    settings: Settings
    access: Access
    certificate: Certificate | None
    read_once: tuple[bytes, ...]
    """Digests of the files that are read at the start only."""


def read_in_force(settings: Settings) -> InForce:
    """Blocks for the disk. Raises :class:`SettingsError` for a file that will not do."""
    files = TlsFiles.of(settings)
    return InForce(
        settings,
        read_access(settings),
        read_certificate(files) if files else None,
        tuple(_digest(getattr(settings, name)) for name in READ_ONCE),
    )


def read_access(settings: Settings) -> Access:
    """What callers of the endpoint must show. Raises :class:`SettingsError` for a token file that will not do."""
    reading, changing = (
        read_token_file(path) if path else None for path in (settings.http_token_file, settings.http_change_token_file)
    )
    if reading is not None and reading == changing:
        raise SettingsError(
            "--http-token-file and --http-change-token-file hold the same token",
            "every caller holds the first: give changes another",
        )
    return Access(
        reading=reading,
        changing=changing,
        local=settings.http.local,
        certified=settings.http_ca is not None,
        encrypted=settings.http_cert is not None,
        named=settings.http.path is None,
    )


def _digest(path: Path | None) -> bytes:
    try:
        return b"" if path is None else hashlib.sha256(path.open("rb").read(MAX_BYTES)).digest()
    except OSError:
        return b""


def combined(old: Settings, asked: Settings) -> Settings:
    """The old settings with those of the new ones that can change. Raises :class:`SettingsError` where that makes no
    sense: something that cannot change would have had to."""
    alive = CHANGEABLE | TLS if (old.http_cert is None) is (asked.http_cert is None) else CHANGEABLE
    names = [field.name for field in msgspec.structs.fields(Settings) if field.name in alive]
    return checked(msgspec.structs.replace(old, **{name: getattr(asked, name) for name in names}))


def differing(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that are not the same, in the order people read them."""
    return [
        field.encode_name
        for field in msgspec.structs.fields(Settings)
        if getattr(old, field.name) != getattr(new, field.name)
    ]


def changes(old: InForce, new: InForce) -> list[str]:
    """What is another, by setting; another token in the same file counts. A certificate is told by its keeper."""
    names = differing(old.settings, new.settings)
    content = {
        "http-token-file": old.access.reading != new.access.reading,
        "http-change-token-file": old.access.changing != new.access.changing,
    }
    return names + [name for name, changed in content.items() if changed and name not in names]


def waiting(old: InForce, new: InForce, asked: Settings) -> list[str]:
    """What was asked for and needs a restart, by setting."""
    names = differing(new.settings, asked)
    kebab = {field.name: field.encode_name for field in msgspec.structs.fields(Settings)}
    digests = zip(READ_ONCE, old.read_once, new.read_once, strict=True)
    files = [kebab[name] for name, was, found in digests if was != found]
    return names + [name for name in files if name not in names]


class Reloader:
    """Reads the settings again when asked to. ``read`` blocks, and raises :class:`AgentError`; ``apply`` puts new ones
    into force; ``keys`` says what the pool's ring is."""

    def __init__(
        self,
        in_force: InForce,
        *,
        read: Callable[[], Settings],
        apply: Callable[[InForce], None],
        keys: Callable[[], KeyRing | None],
        log: Log,
    ) -> None:
        self.in_force = in_force
        self._read = read
        self._apply = apply
        self._keys = keys
        self._log = log
        self._asked = trio.Event()
        self.trouble = ""
        """Why what was last read is not wholly in force; empty when it is."""

    def ask(self) -> None:
        """Read the settings again soon."""
        self._asked.set()

    async def hear_signals(self) -> None:
        """Ask at each SIGHUP, for ever."""
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                self.ask()

    async def run(self) -> None:
        """Do what is asked, for ever."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            await self.reload()

    async def reload(self) -> None:
        """Read all sources in a thread, for names are resolved, and put into force what can be."""
        try:
            new, restart = await trio.to_thread.run_sync(self._load, abandon_on_cancel=True)
        except AgentError as error:
            self.trouble = error.message
            self._log.error("reload", trouble=error.message, hint=error.hint, text="the settings in force stay")
            return
        changed = changes(self.in_force, new)
        self.trouble = f"needs a restart: {', '.join(restart)}" if restart else ""
        self.in_force = replace(new, read_once=self.in_force.read_once)
        self._apply(new)
        if restart:
            self._log.warning("reload", changed=changed, text=self.trouble)
        else:
            self._log.info("reload", changed=changed)

    def _load(self) -> tuple[InForce, list[str]]:
        asked = self._read()
        new = read_in_force(combined(self.in_force.settings, asked))
        restart = waiting(self.in_force, new, asked)
        path = new.settings.key_file
        if path is not None and "key-file" not in restart and read_key_file(path).ring != self._keys():
            restart.append("key-file (keys of a running pool are changed with rumormill keys)")
        return new, restart
