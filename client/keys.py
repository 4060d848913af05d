"""Keys that are read from requests, so that callers need not set `Rumormill-Key`. Pure, and of no HTTP library.

    pool.transport(key=json_field("prompt_cache_key", "user"))
    pool.transport(key=first_of(header("X-Session"), prompt_prefix()))

A key function gets a :class:`RequestView` and returns a key, or None for a request that any worker may serve. A
`Rumormill-Key` header that the caller has set goes before every function.

What a prompt has in common with earlier ones, its worker has in its KV cache. `prompt_prefix` sends prompts that begin
alike to one worker, and `conversation` keeps a conversation at one. If too many requests have one key, bounded load
(admission.py) passes the rest on to the key's next owners, always in the same order. So a popular prefix occupies as
many workers as it needs, and no more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

MAX_BODY: Final = 4 * 2**20
"""Longest body that is read for a key, in bytes. Longer requests have none. Reading 1 MiB takes about a millisecond."""
MAX_KEY: Final = 256
"""Longest key that is sent as it is, in bytes. Instead of a longer one, a digest is sent."""
CHUNK: Final = 512
"""Characters of a chunk of a prompt, some 128 tokens. More joins only prompts that have more in common; less joins
those that share only their beginning."""
CHUNKS: Final = 4
"""The most chunks that count. More tells apart prompts that begin alike for longer, such as conversations behind one
system prompt. Less keeps them together."""
CACHE_FIELDS: Final = ("prompt_cache_key", "session_id", "user")
"""Fields of OpenAI's API and its kin that name what a cache is shared by, the most specific first."""

_PLAIN = re.compile(rb"[!-~\x80-\xff](?:[ -~\x80-\xff]*[!-~\x80-\xff])?")


@dataclass(frozen=True, slots=True)
class RequestView:
    """What a key function may read of a request."""

    method: str
    path: str
    """With its query."""
    headers: Iterable[tuple[bytes, bytes]]
    body: bytes
    """Empty if the body is a stream: reading it for the key would use it up."""

    def header(self, name: str) -> str | None:
        """The value of the first header of this name, in any case."""
        wanted = name.lower().encode("latin-1")
        found = next((value for header, value in self.headers if header.lower() == wanted), None)
        return None if found is None else found.decode("utf-8", "surrogateescape")


Key = str | bytes | None
KeyFunction = Callable[[RequestView], Key]


def header(name: str) -> KeyFunction:
    """The value of this header."""

    def key(request: RequestView) -> Key:
        return request.header(name) or None

    return key


def json_field(*names: str) -> KeyFunction:
    """The first of these fields that the JSON body has, as a string or an integer. Dots lead into objects.

    Without names, these are CACHE_FIELDS.
    """
    paths = [name.split(".") for name in names or CACHE_FIELDS]

    def key(request: RequestView) -> Key:
        fields = _json_object(request.body)
        return next((found for path in paths if (found := _value_at(fields, path)) is not None), None)

    return key


def prompt_prefix(*, chunk: int = CHUNK, chunks: int = CHUNKS) -> KeyFunction:
    """The beginning of the prompt: its first 1, 2, 4, ... whole chunks, up to `chunks`. None for less than one chunk.

    Prompts that have their first `chunk * chunks` characters in common have one key. A prompt that grows changes its
    key only when it reaches the next power of two. The prompt is `prompt`, `input`, or the texts of `messages`.
    """
    if chunk < 1 or chunks < 1:
        raise ValueError(f"chunk={chunk} and chunks={chunks} leave nothing of a prompt; give 1 or more")

    def key(request: RequestView) -> Key:
        prompt = "".join(_prompt_texts(_json_object(request.body), chunk * chunks))
        whole = min(len(prompt) // chunk, chunks)
        if not whole:
            return None
        counted = chunk * (1 << (whole.bit_length() - 1)) if whole < chunks else chunk * chunks
        return _digest(prompt[:counted].encode("utf-8", "surrogatepass"))

    return key


def conversation() -> KeyFunction:
    """All messages up to the first that is the user's. It is the same for every turn of a conversation.

    Conversations that begin with the same words have one key. None for a body without messages.
    """

    def key(request: RequestView) -> Key:
        messages = _json_object(request.body).get("messages")
        if not isinstance(messages, list):
            return None
        beginning: list[str] = []
        for message in messages:
            beginning += _message_texts(message)
            if isinstance(message, dict) and message.get("role") == "user":
                return _digest("\0".join(beginning).encode("utf-8", "surrogatepass"))
        return None

    return key


def first_of(*functions: KeyFunction) -> KeyFunction:
    """The first key that one of these functions finds."""

    def key(request: RequestView) -> Key:
        return next((found for function in functions if (found := function(request))), None)

    return key


def header_value(key: str | bytes) -> bytes | None:
    """The key as the value of a header. None for an empty one.

    A key that no header can carry, or that is too long, becomes a digest of 32 characters.
    """
    raw = _encoded(key) if isinstance(key, str) else key
    if len(raw) <= MAX_KEY and _PLAIN.fullmatch(raw):
        return raw
    return _digest(raw).encode() if raw else None


def _encoded(key: str) -> bytes:
    try:
        return key.encode("utf-8", "surrogateescape")  # the bytes of a header that were no text
    except UnicodeEncodeError:
        return key.encode("utf-8", "surrogatepass")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _json_object(body: bytes) -> dict[str, Any]:
    """The body as an object of JSON. Empty if it is none, or too long."""
    if not body or len(body) > MAX_BODY:
        return {}
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _value_at(value: Any, path: list[str]) -> str | None:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None


def _prompt_texts(fields: dict[str, Any], enough: int) -> Iterator[str]:
    """The texts of a prompt in order, until there are enough characters."""
    found = fields.get("messages", fields.get("prompt", fields.get("input")))
    for part in found if isinstance(found, list) else [found]:
        for text in _message_texts(part):
            yield text
            enough -= len(text)
        if enough <= 0:
            return


def _message_texts(message: Any) -> list[str]:
    """The texts of one message, which may be a string, an object, or an object with parts; its role first."""
    match message:
        case str():
            return [message]
        case {"content": list(parts)}:
            return [_role(message), *(text for part in parts for text in _message_texts(part))]
        case {"content": str(text)}:
            return [_role(message), text]
        case {"text": str(text)}:
            return [text]
    return []


def _role(message: Any) -> str:
    return f"\n{message.get('role', '')}\n"
