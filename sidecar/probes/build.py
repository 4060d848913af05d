"""Makes probes: of a kind by name, of a probe file, or of a specification that an engine's profile gives."""

from __future__ import annotations

import difflib
from pathlib import Path

import msgspec

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.probes.command_probe import CommandProbe
from rumormill.sidecar.probes.http_probe import HttpProbe
from rumormill.sidecar.probes.outcome import Probe
from rumormill.sidecar.probes.probe_file import read_probe_file
from rumormill.sidecar.probes.specification import (
    KINDS,
    NO_PROBE,
    CommandSpec,
    GrpcSpec,
    HttpBased,
    KserveSpec,
    ProbeSpec,
    TcpSpec,
)
from rumormill.sidecar.probes.tcp_probe import TcpProbe
from rumormill.sidecar.settings_values import WorkerUrl

PROBE_NAMES = (*KINDS, NO_PROBE)
"""What ``--probe`` takes."""


def probe_spec(kind: str, file: Path | None, default: str = NO_PROBE) -> ProbeSpec | None:
    """The probe that ``--probe`` and ``--probe-file`` ask for; None for no probe.

    If neither is given it is the kind ``default``, an engine's, unless that needs a file. Blocks for the disk. Raises
    :class:`SettingsError`.
    """
    if kind and kind not in PROBE_NAMES:
        close = difflib.get_close_matches(kind, PROBE_NAMES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the probes are {', '.join(PROBE_NAMES)}"
        raise SettingsError(f"--probe {kind!r} is not a kind of probe", hint)
    if file is not None:
        spec = read_probe_file(file)
        if kind not in ("", spec.kind):
            raise SettingsError(
                f"--probe {kind} and {file} with kind = {spec.kind!r} exclude each other", "remove --probe"
            )
        return spec
    if not kind and needs_file(default):
        return None
    kind = kind or default
    return None if kind == NO_PROBE else default_spec(kind)


def needs_file(kind: str) -> bool:
    """Whether a kind of probe has keys without a default, so that only a probe file can give it."""
    return kind != NO_PROBE and any(field.required for field in msgspec.structs.fields(KINDS[kind]))


def default_spec(kind: str) -> ProbeSpec:
    """The probe of a kind that needs nothing more. Raises :class:`SettingsError` for a kind that does."""
    try:
        return msgspec.convert({}, KINDS[kind])
    except msgspec.ValidationError:
        missing = [field.encode_name for field in msgspec.structs.fields(KINDS[kind]) if field.required]
        raise SettingsError(
            f"--probe {kind} needs {' and '.join(missing)}",
            f"write a probe file and give it with --probe-file; docs/run/probes.md has one for {kind}",
        ) from None


def build_probe(spec: ProbeSpec, worker: WorkerUrl) -> Probe:
    """The probe of one worker. Reads its key file. Raises :class:`SettingsError`."""
    match spec:
        case KserveSpec(transport="grpc") | GrpcSpec():
            from rumormill.sidecar.probes.grpc_probe import GrpcProbe

            return GrpcProbe(spec, worker)
        case HttpBased():
            return HttpProbe(spec, worker)
        case TcpSpec():
            return TcpProbe(spec, worker)
        case CommandSpec():
            return CommandProbe(spec, worker)
    raise TypeError(f"no probe: {type(spec).__name__}")
