"""Reads progress from Ollama's list of loaded models."""

from __future__ import annotations

import datetime

import msgspec

from rumormill.sidecar.counters.reading import BadCounters, CounterReading


class _Model(msgspec.Struct):
    expires_at: datetime.datetime | None = None


class _Models(msgspec.Struct):
    models: list[_Model] | None


def read_ollama_untrusted(page: bytes) -> CounterReading:
    """Raises :class:`BadCounters`. What runs or waits is not said. A model's expiry moves whenever a request ends."""
    try:
        models = msgspec.json.decode(page, type=_Models).models or []
        expiry = sum(model.expires_at.timestamp() for model in models if model.expires_at)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:  # a time of the year 1 has no stamp everywhere
        raise BadCounters(f"its list of models cannot be read: {str(error)[:100]}") from None
    return CounterReading(progress=expiry)
