"""Reads the answers of inference servers. Pure; everything here is a worker's bytes, and may raise only
:class:`NotExpected`.

Sources: the OpenAI API reference (embeddings, completions, chat completions and their streams), and the Open Inference
Protocol v2 (KServe).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from rumormill.sidecar.probes.expectations import NotExpected, check_finite, quoted, shortened

MAX_NESTED_LISTS = 16
REASONING_FIELDS = ("reasoning_content", "reasoning")
"""Where servers put the text of a model that thinks before it answers; then ``content`` is null."""


def decode_json_untrusted(body: bytes | bytearray | str) -> Any:
    """The JSON in an answer. NaN and Infinity are taken, because servers written in Python send them."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        begin = body if isinstance(body, str) else bytes(body[:80]).decode("latin-1")
        raise NotExpected(f"the answer is not JSON but {quoted(begin)} ({shortened(str(error), 80)})") from None


def error_text_untrusted(body: bytes | bytearray) -> str:
    """What an error answer says of itself; empty if it says nothing."""
    try:
        return _error_in(json.loads(body))
    except (ValueError, RecursionError):
        return shortened(body[:400].decode("utf-8", "replace"), 120)


def _error_in(answer: object) -> str:
    for key in ("error", "message", "detail", "object"):
        if isinstance(answer, dict) and answer.get(key):
            answer = answer[key]
    return shortened(answer, 120) if isinstance(answer, str) else ""


def embedding_untrusted(answer: object) -> list[float]:
    """The first vector of an OpenAI embeddings answer."""
    first = _first(_field(answer, "data", list), "data")
    return check_finite(_field(first, "embedding", list))


def completion_text_untrusted(answer: object) -> str:
    """The text of an OpenAI completions answer."""
    return str(_field(_first(_field(answer, "choices", list), "choices"), "text", str))


def chat_text_untrusted(answer: object) -> str:
    """The text of an OpenAI chat answer, or what the model thought before it."""
    message = _field(_first(_field(answer, "choices", list), "choices"), "message", dict)
    return _content(message, "message")


def _content(message: Mapping[str, Any], what: str) -> str:
    texts = [message.get(key) for key in ("content", *REASONING_FIELDS)]
    if all(text is None for text in texts) and "content" not in message:
        raise NotExpected(f"the {what} has no content")
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise NotExpected(f"the {what}'s content is {quoted(text)} and not text")
    return next((text for text in texts if text), "")


def tensor_untrusted(answer: object, name: str = "") -> list[float]:
    """The numbers of one output of a KServe v2 answer in row-major order: of the named one, or the first."""
    outputs = _field(answer, "outputs", list)
    output = _first(outputs, "outputs")
    if name:
        named = [one for one in outputs if isinstance(one, dict) and one.get("name") == name]
        if not named:
            raise NotExpected(f"the answer has no output {name!r}")
        output = named[0]
    numbers = check_finite(list(_flattened(_field(output, "data", list))))
    shape = _field(output, "shape", list)
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 32 for size in shape):
        raise NotExpected("the output's shape is not a list of sizes")
    if math.prod(shape) != len(numbers):
        raise NotExpected(f"the output's shape is {shortened(str(shape), 60)}, but it has {len(numbers)} numbers")
    return numbers


def numbers_at_untrusted(answer: object, place: str) -> list[float]:
    """The numbers at a place such as ``data.0.embedding``."""
    found = at_untrusted(answer, place)
    if not isinstance(found, list):
        raise NotExpected(f"{place} is {quoted(found)} and not a list of numbers")
    return check_finite(list(_flattened(found)))


def text_at_untrusted(answer: object, place: str) -> str:
    """The text at a place such as ``choices.0.text``."""
    found = at_untrusted(answer, place)
    if not isinstance(found, str):
        raise NotExpected(f"{place} is {quoted(found)} and not text")
    return found


def at_untrusted(answer: object, place: str) -> Any:
    """What stands at a place: names of fields and positions in lists, joined by dots."""
    found = answer
    for step in place.split("."):
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isascii() and step.isdigit() and int(step[:9]) < len(found):
            found = found[int(step[:9])]
        else:
            raise NotExpected(f"the answer has no {place}: {step!r} is missing")
    return found


def _flattened(values: list[Any], depth: int = 0) -> Iterator[object]:
    if depth > MAX_NESTED_LISTS:
        raise NotExpected("the lists of numbers are nested too deeply")
    for value in values:
        if isinstance(value, list):
            yield from _flattened(value, depth + 1)
        else:
            yield value


def _first(values: list[Any], what: str) -> Any:
    if not values:
        raise NotExpected(f"{what} is empty")
    return values[0]


def _field(value: object, name: str, kind: type) -> Any:
    words: dict[type, str] = {list: "a list", dict: "an object", str: "text"}
    if not isinstance(value, dict):
        raise NotExpected(f"there is {quoted(value)} where an object with {name!r} should be")
    if name not in value:
        error = _error_in(value) if "error" in value else ""
        raise NotExpected(f"the answer has no {name!r}" + (f"; it says: {error}" if error else ""))
    if not isinstance(value[name], kind):
        raise NotExpected(f"{name!r} is {quoted(value[name])} and not {words[kind]}")
    return value[name]


class TokenStream:
    """Reads a streamed completion: server-sent events whose data are JSON, and ``[DONE]`` at the end."""

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat
        self._rest = b""
        self.text = ""
        self.events = 0
        self.done = False
        """Whether the server has said that the stream is over."""

    def feed_untrusted(self, data: bytes | bytearray) -> None:
        """Take the next bytes of the body. Raises :class:`NotExpected`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        answer = decode_json_untrusted(data)
        self.events += 1
        choices = _field(answer, "choices", list)
        if choices:  # the last event may hold only the usage
            self.text += self._piece(choices[0])

    def _piece(self, choice: object) -> str:
        if not self._chat:
            return str(_field(choice, "text", str))
        delta = _field(choice, "delta", dict)
        texts = (delta.get(key) for key in ("content", *REASONING_FIELDS))
        return next((text for text in texts if isinstance(text, str) and text), "")
