"""Checks that a probe makes sense before it runs. Each rule is one function and raises one error with a hint."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.probes.expectations import norm_of
from rumormill.sidecar.probes.json_schema import BadSchema, compile_schema
from rumormill.sidecar.probes.specification import (
    CommandSpec,
    Expect,
    GenerationSpec,
    GrpcSpec,
    HttpBased,
    HttpExpect,
    KserveSpec,
    ProbeSpec,
    TcpSpec,
    VectorExpect,
)
from rumormill.sidecar.secrets import read_token_file
from rumormill.sidecar.settings_values import BadValue, HostPort

SECRET_HEADERS = ("authorization", "proxy-authorization", "x-api-key", "api-key", "cookie")


class BadProbe(Exception):
    """What is wrong with a probe. ``key`` says where, its tables first."""

    def __init__(self, text: str, key: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(text)
        self.key = key
        self.hint = hint


def checked(spec: ProbeSpec, folder: Path = Path()) -> ProbeSpec:
    """The same probe with the paths of its files filled in, if all of it makes sense. Raises :class:`BadProbe`.

    The key file is read, so that an unreadable one is found at the start.
    """
    key_file = getattr(spec, "api_key_file", None)
    if key_file is not None:
        spec = msgspec.structs.replace(spec, api_key_file=folder / key_file)
    for check in _CHECKS:
        check(spec)
    return spec


def _check_times(spec: ProbeSpec) -> None:
    for name, value in (("budget", spec.budget), ("give-up", spec.give_up)):
        if not 0.001 <= value <= 600:
            raise BadProbe(f"{name} {value} is out of range", (name,), "choose a value from 1ms to 600s")
    if spec.budget > spec.give_up:
        raise BadProbe(
            f"the budget {spec.budget} is longer than give-up {spec.give_up}",
            ("budget",),
            f"set give-up to more than {spec.budget}",
        )


def _check_http(spec: ProbeSpec) -> None:
    if not isinstance(spec, HttpBased):
        return
    if not (spec.path.startswith("/") or (not spec.path and isinstance(spec, KserveSpec))):
        raise BadProbe(f"path {spec.path!r} does not begin with a slash", ("path",), "write it like /v1/embeddings")
    if not spec.path.isprintable() or not spec.path.isascii() or " " in spec.path:
        raise BadProbe(f"path {spec.path!r} has a character that no path has", ("path",), "write it percent-encoded")
    for name, value in spec.headers.items():
        _check_header(name, value, ("headers", name))
    _check_header(spec.api_key_header, "x", ("api-key-header",))
    if spec.body is not None and spec.method == "GET":
        raise BadProbe("a GET has no body", ("body",), 'add method = "POST", or remove the body')


def _check_header(name: str, value: str, key: tuple[str, ...]) -> None:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise BadProbe(f"{name!r} is not the name of a header", key, "write it like X-Tenant")
    if not value.isprintable() or not value.isascii():
        raise BadProbe(f"the value of {name} is not printable ASCII", key, "remove line breaks and other signs")
    if key[0] == "headers" and name.lower() in SECRET_HEADERS:
        raise BadProbe(
            f"{name} holds a secret, and this file is not for secrets",
            key,
            f'put the key into a file of mode 0600 and write api-key-file = "FILE", api-key-header = "{name}"',
        )
    if key[0] == "headers" and name.lower() in ("content-length", "transfer-encoding", "connection", "host"):
        raise BadProbe(f"{name} is set by the probe itself", key, "remove it")


def _check_key_file(spec: ProbeSpec) -> None:
    path = getattr(spec, "api_key_file", None)
    if path is None:
        return
    try:
        read_token_file(path)
    except SettingsError as error:
        raise BadProbe(f"api-key-file: {error.message}", ("api-key-file",), _key_hint(error, path)) from None


def _key_hint(error: SettingsError, path: Path) -> str:
    return error.hint if error.hint.startswith(("chmod", "check", "its owner")) else f"write the key into {path}"


def _check_vector(spec: ProbeSpec) -> None:
    expect = getattr(spec, "expect", None)
    if not isinstance(expect, VectorExpect):
        return
    golden, key = expect.golden, ("expect", "golden")
    if golden and expect.length is not None and len(golden) != expect.length:
        raise BadProbe(
            f"golden has {len(golden)} numbers, and length is {expect.length}",
            key,
            "record it again from a healthy worker: rumormill probe --record",
        )
    if golden and (not all(map(math.isfinite, golden)) or not 0 < norm_of(golden) < math.inf):
        raise BadProbe(
            "golden is not a finite vector with a direction", key, "record it again: rumormill probe --record"
        )
    vector_wanted = golden or expect.length is not None or expect.norm is not None
    if isinstance(expect, HttpExpect) and vector_wanted and not expect.vector:
        raise BadProbe(
            "it is not said where in the answer the vector stands",
            ("expect", "vector"),
            'add vector = "data.0.embedding", or where it stands',
        )


def _check_unused(spec: ProbeSpec) -> None:
    """A key that would be passed over is a mistake."""
    if isinstance(spec, GenerationSpec) and spec.stream and spec.expect.schema is not None:
        raise BadProbe(
            "a stream has no one answer for a schema", ("expect", "schema"), "remove stream, or use pattern instead"
        )
    if isinstance(spec, KserveSpec) and spec.transport == "http" and spec.target:
        raise BadProbe(
            "target is for gRPC; HTTP goes to the worker", ("target",), 'add transport = "grpc", or remove it'
        )
    if isinstance(spec, KserveSpec) and spec.transport == "grpc":
        for name, given in (("path", spec.path), ("headers", spec.headers), ("body", spec.body)):
            if given:
                raise BadProbe(f"{name} is not used with gRPC", (name,), "remove it")


def _check_patterns(spec: ProbeSpec) -> None:
    pattern = getattr(getattr(spec, "expect", None), "pattern", "")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadProbe(
            f"pattern {pattern!r} is not a regular expression: {error}",
            ("expect", "pattern"),
            "write backslashes in single quotes: pattern = '\\d+'",
        ) from None


def _check_schema(spec: ProbeSpec) -> None:
    expect = getattr(spec, "expect", None)
    if not isinstance(expect, Expect) or expect.schema is None:
        return
    try:
        compile_schema(expect.schema)
    except BadSchema as error:
        raise BadProbe(f"schema: {error}", ("expect", "schema", *error.keyword.split(".")), error.hint) from None


def _check_tensors(spec: ProbeSpec) -> None:
    for tensor in spec.inputs if isinstance(spec, KserveSpec) else ():
        if math.prod(tensor.shape) != len(tensor.data):
            raise BadProbe(
                f"input {tensor.name!r} has {len(tensor.data)} numbers, and its shape {list(tensor.shape)} needs "
                f"{math.prod(tensor.shape)}",
                ("inputs", "data"),
                "make shape and data agree",
            )


def _check_target(spec: ProbeSpec) -> None:
    if isinstance(spec, KserveSpec | GrpcSpec | TcpSpec) and spec.target:
        try:
            HostPort.parse(spec.target)
        except BadValue as error:
            raise BadProbe(f"target: {error}", ("target",), error.hint) from None
    if isinstance(spec, GrpcSpec) or (isinstance(spec, KserveSpec) and spec.transport == "grpc"):
        _check_grpc()


def _check_grpc() -> None:
    if not all(map(find_spec, ("grpc", "google", "google.protobuf"))):
        raise BadProbe("a gRPC probe needs grpcio and protobuf", ("kind",), "pip install 'rumormill[grpc]'")


def _check_command(spec: ProbeSpec) -> None:
    if isinstance(spec, CommandSpec) and shutil.which(spec.command[0]) is None:
        raise BadProbe(
            f"the program {spec.command[0]!r} is not found, or may not be run",
            ("command",),
            "give its whole path, and the program and each argument as a text of its own",
        )


_CHECKS: tuple[Callable[[ProbeSpec], None], ...] = (
    _check_times,
    _check_http,
    _check_key_file,
    _check_vector,
    _check_unused,
    _check_patterns,
    _check_schema,
    _check_tensors,
    _check_target,
    _check_command,
)
"""Each checks one thing, and raises :class:`BadProbe`."""
