"""On which line of a TOML file a key stands, for error messages. tomllib does not say it."""

from __future__ import annotations

import re

_TABLE = re.compile(r"\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, key: tuple[str, ...]) -> int | None:
    """The line, from 1, on which a key (its tables first) is set; that of the nearest table around it otherwise.

    Underscores and hyphens are the same here. A line inside a multi-line text may be taken for a key: the number is a
    help for a person.
    """
    wanted = tuple(part.replace("_", "-") for part in key)
    table: tuple[str, ...] = ()
    best, found = 0, None
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = here = _parts(header[1])
        elif given := _KEY.match(line):
            here = table + _parts(given[1])
        else:
            continue
        if len(here) > best and here == wanted[: len(here)]:
            best, found = len(here), number
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'").replace("_", "-") for part in _PART.findall(dotted))
