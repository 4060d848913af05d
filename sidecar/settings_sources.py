"""Reads the settings: a flag wins over ``RUMORMILL_*``, that over TOML, that over the default.

An error is one line that names the place of the wrong value, with a hint. Nothing is started before all settings are
valid. An unknown key is refused, with the nearest known key as a hint: an ignored typo is found months later.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.settings import Settings, description_of, fields
from rumormill.sidecar.settings_check import validated
from rumormill.sidecar.settings_values import BadValue, HostPort, HttpAddress, Seconds, WorkerPid, WorkerUrl

PREFIX = "RUMORMILL_"
MAX_CONFIG_BYTES = 1 << 20
OTHER_VARIABLES = (
    "RUMORMILL_CONFIG",
    *(f"RUMORMILL_{name}" for name in ("STATE", "OLD_STATE", "REASON", "TIME")),  # of a command that starts an agent
)
"""Known variables that are not settings."""


def load(flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None) -> Settings:
    """Read and check the settings. ``flags`` holds only the flags that were given, by kebab-case name.

    Host names are resolved here, except those to join, which are resolved again and again. Raises
    :class:`SettingsError`.
    """
    return load_with_origins(flags, environ, config)[0]


def load_with_origins(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None
) -> tuple[Settings, dict[str, str]]:
    """As :func:`load`, and for each setting that was given, by kebab-case name, where."""
    _refuse_unknown_variables(environ)
    if config is None and environ.get("RUMORMILL_CONFIG"):
        config = Path(environ["RUMORMILL_CONFIG"])
    toml = read_config(config) if config else {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field in fields():
        for origin, given in _sources(field.encode_name, flags, environ, toml, config):
            values[field.name], origins[field.encode_name] = _convert(field, given, origin), origin
            break
    _refuse_missing(values)
    return validated(Settings(**values)), origins


def variable_of(key: str) -> str:
    """``key-file`` → ``RUMORMILL_KEY_FILE``."""
    return PREFIX + key.upper().replace("-", "_")


def _sources(
    key: str, flags: Mapping[str, Any], environ: Mapping[str, str], toml: Mapping[str, Any], config: Path | None
) -> Iterator[tuple[str, Any]]:
    if key in flags:
        yield f"--{key}", flags[key]
    if environ.get(variable_of(key)):
        yield variable_of(key), environ[variable_of(key)]
    if key in toml:
        yield f"{key} in {config}", toml[key]


def _convert(field: msgspec.structs.FieldInfo, given: Any, origin: str) -> Any:
    try:
        return msgspec.convert(_split_list(field.name, given), field.type, strict=False, dec_hook=_parse)
    except BadValue as error:
        raise SettingsError(f"{origin}: {error}", error.hint) from None
    except msgspec.ValidationError as error:
        cause = error.__cause__
        trouble = cause if isinstance(cause, BadValue) else _explain_invalid(field, given)
        raise SettingsError(f"{origin}: {trouble}", trouble.hint) from None


def _explain_invalid(field: msgspec.structs.FieldInfo, given: Any) -> BadValue:
    """Describes what is wrong with a value of a basic type."""
    kind = _base_type(field)
    match kind:
        case inspect.FloatType():
            return BadValue(f"{given!r} is not a number from {kind.ge:g} to {kind.le:g}", "write it like 1 or 0.5")
        case inspect.IntType():
            return BadValue(f"{given!r} is not a whole number above 0", "give a number like 64")
        case inspect.LiteralType(known):
            return BadValue(f"{given!r} is not known", f"choose one of {', '.join(map(str, known))}")
        case inspect.BoolType():
            return BadValue(f"{given!r} is neither true nor false", "write true or false, without quotes in TOML")
        case inspect.StrType() if given == "":
            return BadValue("it is empty", f"give a {description_of(field)[1].lower()}, or remove the setting")
        case inspect.StrType() if isinstance(given, str):
            return BadValue(f"it is longer than {kind.max_length} characters", "make it shorter")
        case inspect.DictType():
            return BadValue(
                "a tag needs a key and a value", 'write it as KEY=VALUE; in TOML as key = "value" below [tag]'
            )
        case inspect.VarTupleType(inspect.LiteralType(known)) if isinstance(given, str | list | tuple):
            return BadValue(f"{given!r} holds an unknown name", f"the known ones are {', '.join(map(str, known))}")
        case inspect.VarTupleType():
            return BadValue(f"{given!r} is not a list", 'write it as ["HOST:PORT", "HOST:PORT"]')
    return BadValue(f"{given!r} is not text", "put it in quotes")


def _base_type(field: msgspec.structs.FieldInfo) -> inspect.Type:
    """The type of a setting, without None and without annotations."""
    kind = inspect.type_info(field.type)
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        else:
            kind = next(one for one in kind.types if not isinstance(one, inspect.NoneType))
    return kind


def _parse(kind: type, given: Any) -> Any:
    if kind in (HostPort, HttpAddress, Seconds, WorkerPid, WorkerUrl):
        return kind.parse(given)
    if issubclass(kind, Path) and isinstance(given, str) and given:
        return Path(given).expanduser()
    raise BadValue(f"{given!r} is not a file name", "give a path, in quotes in TOML")


def _split_list(name: str, given: Any) -> Any:
    """Split a list in one variable at its commas. Tags become a mapping."""
    if name not in ("join", "tag", "disable_format"):
        return given
    if isinstance(given, str):
        given = [part for part in given.split(",") if part.strip()]
    if name != "tag" or not isinstance(given, list | tuple):
        return given
    pairs = [str(part).partition("=") for part in given]
    if any(not key.strip() or not equals for key, equals, _ in pairs):
        raise BadValue("a tag needs a key and a value", "write it as KEY=VALUE")
    return {key.strip(): value for key, _, value in pairs}


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a TOML file by kebab-case key. Keys with underscores are accepted too. Raises
    :class:`SettingsError`."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}", "give --config a TOML file that this user can read"
        ) from None
    if len(text) > MAX_CONFIG_BYTES:
        raise SettingsError(f"{path} is longer than a megabyte", "give --config the TOML file of an agent")
    try:
        toml = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(
            f"{path} is not TOML: {_lower(str(error))}", 'a line looks like  cluster = "prod"'
        ) from None
    known = [field.encode_name for field in fields()]
    settings = {key.replace("_", "-"): value for key, value in toml.items()}
    for key in settings:
        if key not in known and isinstance(settings[key], dict):
            raise SettingsError(
                f"{path} has a table [{key}], but settings must be at the top level", f"delete the line [{key}]"
            )
        if key not in known:
            raise SettingsError(f"unknown setting {key!r} in {path}", _nearest(key, known))
    return settings


def _nearest(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"the known ones are {', '.join(sorted(known))}"


_SERVICE_LINKS = re.compile(r"RUMORMILL_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
"""Variables that Kubernetes sets in every container next to a service called "rumormill". They are not typos."""


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = [variable_of(field.encode_name) for field in fields()] + list(OTHER_VARIABLES)
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in known and not _SERVICE_LINKS.fullmatch(variable):
            raise SettingsError(f"unknown variable {variable}", _nearest(variable, known))


def _refuse_missing(values: Mapping[str, Any]) -> None:
    missing = [f"--{field.encode_name}" for field in fields() if field.required and field.name not in values]
    if missing and "key_file" not in values and "insecure_plaintext" not in values:
        missing.append("--key-file")
    if missing:
        raise SettingsError(
            f"the agent needs {' and '.join(missing)}",
            "for example: rumormill agent --name w1 --cluster prod --service embed --worker http://127.0.0.1:9001 "
            "--key-file pool.key; `rumormill config init` writes a file of all settings",
        )
