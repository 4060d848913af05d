"""What an answer must be like: the rules, on any input."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rumormill.sidecar.probes.answers import (
    TokenStream,
    chat_text_untrusted,
    completion_text_untrusted,
    decode_json_untrusted,
    embedding_untrusted,
    tensor_untrusted,
)
from rumormill.sidecar.probes.expectations import (
    MANY_REPETITIONS,
    NotExpected,
    check_finite,
    check_golden,
    check_not_zero,
    check_pattern,
    cosine_distance,
    repeated_unit,
)
from rumormill.sidecar.probes.json_schema import BadSchema, compile_schema

numbers = st.floats(min_value=-1e6, max_value=1e6).filter(lambda number: number == 0 or abs(number) > 1e-6)
vectors = st.lists(numbers, min_size=1, max_size=30).filter(any)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "embedding", "choices", "message", "content", "text", "outputs", "shape", "error"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def refusal(read: Callable[[Any], object], answer: object) -> str:
    """Why an answer is refused; empty if it is not."""
    try:
        read(answer)
    except NotExpected as error:
        return str(error)
    return ""


@given(vectors, st.floats(min_value=1e-3, max_value=1e3))
def test_the_distance_to_the_same_direction_is_zero_and_to_the_opposite_two(vector: list[float], scale: float) -> None:
    assert cosine_distance(vector, [scale * number for number in vector]) == pytest.approx(0, abs=1e-9)
    assert cosine_distance(vector, [-number for number in vector]) == pytest.approx(2, abs=1e-9)


@given(st.data())
def test_the_distance_has_no_order_and_lies_between_zero_and_two(data: st.DataObject) -> None:
    one = data.draw(vectors)
    other = data.draw(st.lists(numbers, min_size=len(one), max_size=len(one)).filter(any))
    distance = cosine_distance(one, other)
    assert distance == pytest.approx(cosine_distance(other, one))
    assert 0 <= distance <= 2
    assert distance == pytest.approx(
        1 - math.fsum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other), abs=1e-6
    )


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5).filter(any))
def test_no_finite_vector_is_too_large_or_too_small_for_a_distance(vector: list[float]) -> None:
    check_golden(vector, vector, 1e-6)


@given(vectors, st.data())
def test_one_number_that_is_none_is_found_wherever_it_stands(vector: list[float], data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(vector) - 1))
    bad, word = data.draw(
        st.sampled_from(
            [
                (math.nan, "NaN"),
                (math.inf, "infinite"),
                (None, "null"),
                ("x", "'x'"),
                (True, "bool"),
                (10**400, "infinite"),
            ]
        )
    )
    assert check_finite(vector) == vector
    with pytest.raises(NotExpected, match=f"{position + 1} of {len(vector)} is {word}"):
        check_finite([*vector[:position], bad, *vector[position + 1 :]])


def test_a_vector_has_a_direction() -> None:
    for vector, why in (([], "empty"), ([0.0, 0.0], "all zeros")):
        with pytest.raises(NotExpected, match=why):
            check_not_zero(vector)


@given(st.text(min_size=1, max_size=8), st.integers(MANY_REPETITIONS, 20), st.integers(0, 7))
def test_one_token_over_and_over_is_seen_even_if_the_last_is_cut(unit: str, times: int, cut: int) -> None:
    found = repeated_unit(unit * times + unit[:cut])
    assert found is not None
    assert (unit * 2).startswith(found)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40, unique=True))
def test_a_text_that_goes_on_is_no_loop(words: list[int]) -> None:
    text = " ".join(map(str, sorted(words)))
    assume(len(set(text)) > 2)
    assert repeated_unit(text) is None


def test_a_pattern_is_searched() -> None:
    check_pattern("well, 8", re.compile(r"\d"))
    with pytest.raises(NotExpected, match="does not match"):
        check_pattern("!!!", re.compile(r"\d"))


@given(json_values)
def test_any_json_is_read_or_refused(answer: object) -> None:
    for read in (embedding_untrusted, completion_text_untrusted, chat_text_untrusted, tensor_untrusted):
        reason = refusal(read, answer)
        assert len(reason) < 400
        assert reason.isprintable()


def test_what_a_model_thinks_before_it_answers_is_its_text_too() -> None:
    for field in ("content", "reasoning_content", "reasoning"):
        message = {"content": None, field: "Okay"}
        assert chat_text_untrusted({"choices": [{"message": message}]}) == "Okay"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"error": {"message": "no such model"}}, "the answer has no 'choices'; it says: no such model"),
        ({"choices": []}, "choices is empty"),
        ({"choices": [{"message": {"role": "assistant"}}]}, "the message has no content"),
        ({"choices": [{"message": {"content": 3}}]}, "the message's content is int and not text"),
        ([], "there is list where an object with 'choices' should be"),
    ],
)
def test_a_wrong_shape_says_what_is_wrong(answer: object, why: str) -> None:
    with pytest.raises(NotExpected) as error:
        chat_text_untrusted(answer)
    assert str(error.value) == why


def test_a_tensor_has_as_many_numbers_as_its_shape_says() -> None:
    output = {"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4]]}
    assert tensor_untrusted({"outputs": [{"name": "x"}, output]}, "y") == [1, 2, 3, 4]
    with pytest.raises(NotExpected, match=r"shape is \[2, 3\], but it has 4 numbers"):
        tensor_untrusted({"outputs": [output | {"shape": [2, 3]}]})
    with pytest.raises(NotExpected, match="no output 'z'"):
        tensor_untrusted({"outputs": [output]}, "z")


@given(st.lists(st.text()), st.booleans(), st.lists(st.integers(0, 400)))
def test_a_stream_says_the_same_however_it_is_cut(pieces: list[str], chat: bool, cuts: list[int]) -> None:
    choices = [{"delta": {"content": piece}} if chat else {"text": piece} for piece in pieces]
    events = [f"data: {json.dumps({'choices': [choice]})}\r\n\r\n" for choice in choices]
    body = ": keep-alive\n\n".join([*events, 'data: {"choices": []}\n\n', "data: [DONE]\n\n"]).encode()
    stream = TokenStream(chat=chat)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    for begin, end in pairwise(edges):
        assert stream.done == (b"[DONE]\n" in body[:begin])
        stream.feed_untrusted(body[begin:end])
    assert stream.done
    assert stream.text == "".join(pieces)


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    assert refusal(decode_json_untrusted, body).isprintable()


def test_json_with_nan_is_read_so_that_nan_can_be_named() -> None:
    assert math.isnan(decode_json_untrusted(b"[NaN]")[0])
    with pytest.raises(NotExpected, match="not JSON"):
        decode_json_untrusted(b"[" * 100_000)


@pytest.mark.parametrize(
    ("schema", "why", "hint"),
    [
        ({"minItem": 1}, "'minItem' is not a keyword of draft 7", "did you mean 'minItems'?"),
        ({"properties": {"a": {"prefixItems": []}}}, "'prefixItems' is not a keyword of draft 7", ""),
        ({"type": "objct"}, "it is not a JSON Schema: Unknown type", "draft-07"),
        ({"pattern": "("}, "it is not a JSON Schema", "draft-07"),
        ({"properties": []}, "'properties' is not a table", "draft-07"),
        ({"items": 5}, "items is not a schema but int", "draft-07"),
        ({"allOf": {}}, "'allOf' is not a list of schemas", "draft-07"),
        ({"$ref": "http://127.0.0.1:1/x"}, "is in another document", "write references within the schema"),
        ({"$ref": "#/nowhere"}, "Unresolvable ref", "draft-07"),
    ],
)
def test_a_schema_that_would_check_nothing_is_refused(schema: dict[str, object], why: str, hint: str) -> None:
    with pytest.raises(BadSchema, match=re.escape(why)) as error:
        compile_schema(schema)
    assert hint in error.value.hint


def test_a_schema_checks() -> None:
    validate = compile_schema({"required": ["data"], "properties": {"data": {"items": {"type": "number"}}}})
    validate({"data": [1]})
    with pytest.raises(ValueError, match=r"data\[0\] must be number"):
        validate({"data": ["x"]})
