"""The settings in force, as the status shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rumormill.discovery.commands import SettingValue
from rumormill.sidecar.settings import Settings


def settings_in_force(settings: Settings) -> dict[str, SettingValue]:
    """The current settings by kebab-case name. Secrets are in files, so none is shown."""
    return {
        field.encode_name: _setting_value(getattr(settings, field.name))
        for field in msgspec.structs.fields(type(settings))
    }


def _setting_value(value: Any) -> SettingValue:
    match value:
        case None | bool() | int():
            return value
        case dict():
            return [f"{key}={text}" for key, text in value.items()]
        case tuple():
            return [str(one) for one in value]
        case float() if type(value) is float:
            return value
        case str() | Path() | float():
            return str(value)
    raise TypeError(f"a setting of kind {type(value).__name__} has no way to be shown")
