"""A key that is sent to the worker, and nowhere else: no text that is logged or shown may hold it."""

from __future__ import annotations

import json
from pathlib import Path

from rumormill.sidecar.secrets import read_token_file

HIDDEN = "[secret]"


class Secret:
    """A text that does not show itself."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def read(cls, path: Path | None) -> Secret | None:
        """The only line of a file that others cannot read. Raises :class:`rumormill.sidecar.SettingsError`."""
        return None if path is None else cls(read_token_file(path))

    def reveal(self) -> str:
        """For the request only."""
        return self._text

    def hide_in(self, text: str) -> str:
        """The same text without the secret: a worker may repeat the key that it refuses."""
        for form in {self._text, json.dumps(self._text)[1:-1], repr(self._text)[1:-1]}:
            text = text.replace(form, HIDDEN)
        return text

    def hide_in_bytes(self, body: bytearray) -> bytearray:
        """The same for an answer before it is read."""
        for form in {self._text, json.dumps(self._text)[1:-1]}:
            body = body.replace(form.encode(), HIDDEN.encode())
        return body

    def __repr__(self) -> str:
        return "Secret()"
