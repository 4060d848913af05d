"""Keys that are read from requests, and what they promise for every request."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rumormill.client.keys import (
    CHUNK,
    CHUNKS,
    MAX_BODY,
    MAX_KEY,
    RequestView,
    conversation,
    first_of,
    header,
    header_value,
    json_field,
    prompt_prefix,
)

ENOUGH = CHUNK * CHUNKS
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def view(body: Any = None, **headers: str) -> RequestView:
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return RequestView("POST", "/v1/chat/completions", pairs, raw)


def chat(*turns: str, system: str = "be brief") -> dict[str, Any]:
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return {"model": "m", "messages": [{"role": "system", "content": system}, *messages]}


def test_a_header_in_any_case() -> None:
    assert header("X-Session")(view(x_session="ada")) == "ada"
    assert header("x-session")(view(X_SESSION="ada")) == "ada"
    assert header("X-Session")(view(x_session="")) is None
    assert header("X-Session")(view()) is None


def test_the_first_field_that_is_there() -> None:
    body = {"user": "ada", "session_id": 7, "prompt_cache_key": "", "metadata": {"tenant": "acme"}}
    assert json_field()(view(body)) == "7"
    assert json_field("user")(view(body)) == "ada"
    assert json_field("metadata.tenant", "user")(view(body)) == "acme"
    assert json_field("user.name")(view(body)) is None
    assert json_field("stream")(view({"stream": True})) is None


def test_functions_in_order() -> None:
    key = first_of(header("X-Session"), json_field("user"), lambda request: request.path)
    assert key(view({"user": "bob"}, x_session="ada")) == "ada"
    assert key(view({"user": "bob"})) == "bob"
    assert key(view({})) == "/v1/chat/completions"
    assert first_of()(view()) is None


@pytest.mark.parametrize("of", ["prompt", "input", "messages", "parts"])
@given(number=st.integers(0), ends=st.tuples(texts, texts))
def test_prompts_with_a_common_prefix_share_a_key(of: str, number: int, ends: tuple[str, str]) -> None:
    shared = f"{number:ë>{ENOUGH}}"

    def body(prompt: str) -> dict[str, Any]:
        content: Any = [{"type": "text", "text": prompt}] if of == "parts" else prompt
        messages = [{"role": "user", "content": content}]
        return {"messages": messages} if of in ("messages", "parts") else {of: prompt}

    first, second = (prompt_prefix()(view(body(shared + end))) for end in ends)
    assert first == second is not None


@given(st.tuples(texts, texts))
def test_prompts_that_differ_in_their_first_chunk_have_different_keys(beginnings: tuple[str, str]) -> None:
    first, second = (prompt_prefix()(view({"prompt": f"{beginning:.<{ENOUGH}}"})) for beginning in beginnings)
    assert (first == second) == (beginnings[0].rstrip(".") == beginnings[1].rstrip("."))


@given(st.integers(1, 3 * CHUNKS), st.integers(0, CHUNK - 1))
def test_a_growing_prompt_changes_its_key_at_powers_of_two_only(whole: int, rest: int) -> None:
    prompt = "".join(f"{n:0{CHUNK}}" for n in range(whole)) + "y" * rest
    counted = min(1 << (whole.bit_length() - 1), CHUNKS)
    assert prompt_prefix()(view({"prompt": prompt})) == prompt_prefix()(view({"prompt": prompt[: counted * CHUNK]}))
    keys = {prompt_prefix()(view({"prompt": prompt[:length]})) for length in range(CHUNK, len(prompt), CHUNK // 2)}
    assert len(keys) <= CHUNKS.bit_length()


def test_a_short_prompt_has_no_key_and_goes_wherever_there_is_time() -> None:
    assert prompt_prefix()(view({"prompt": "x" * (CHUNK - 1)})) is None
    assert prompt_prefix(chunk=4)(view({"prompt": "xxxx"})) is not None
    with pytest.raises(ValueError, match="leave nothing"):
        prompt_prefix(chunk=0)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5), st.text())
def test_a_conversation_keeps_its_key_from_its_first_turn_to_its_last(turns: list[str], system: str) -> None:
    first = conversation()(view(chat(turns[0], system=system)))
    assert first is not None
    assert {conversation()(view(chat(*turns[:n], system=system))) for n in range(1, len(turns) + 1)} == {first}


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_conversations_that_begin_differently_have_different_keys(
    first: tuple[str, str], second: tuple[str, str]
) -> None:
    keys = [conversation()(view(chat(user, system=system))) for system, user in (first, second)]
    if "\0" not in "".join((*first, *second)):
        assert (keys[0] == keys[1]) == (first == second)


@pytest.mark.parametrize("function", [json_field(), json_field("a.b"), prompt_prefix(chunk=1), conversation()])
@settings(max_examples=40)
@given(body=st.binary(max_size=200) | json_values.map(msgspec.json.encode))
def test_no_body_is_an_error(function, body: bytes) -> None:
    found = function(view(body))
    assert found is None or (isinstance(found, str) and found)


@pytest.mark.parametrize("function", [json_field(), prompt_prefix(chunk=1), conversation()])
@settings(max_examples=40)
@given(fields=st.dictionaries(st.sampled_from(["prompt", "input", "messages", "user", "session_id"]), json_values))
def test_no_shape_of_a_known_field_is_an_error(function, fields: dict[str, Any]) -> None:
    function(view(fields))


def test_a_body_beyond_the_limit_or_too_deep_has_no_key() -> None:
    assert json_field()(view(b'{"user": "' + b"x" * MAX_BODY + b'"}')) is None
    assert json_field()(view(b"[" * 100_000)) is None


@given(st.text() | st.binary())
def test_every_key_fits_a_header_and_different_keys_stay_different(key: str | bytes) -> None:
    value = header_value(key)
    if value is None:
        assert not key
        return
    assert 0 < len(value) <= MAX_KEY
    assert not set(value) & set(b"\r\n\0")
    assert value == value.strip()
    assert header_value(key + (b"x" if isinstance(key, bytes) else "x")) != value


def test_a_plain_key_is_sent_as_it_is() -> None:
    assert header_value("user 42") == b"user 42"
    assert header_value("Ådne") == "Ådne".encode()
    assert header_value("two\r\nlines") != b"two\r\nlines"
    assert header_value("x" * (MAX_KEY + 1)) != header_value("x" * (MAX_KEY + 2))
