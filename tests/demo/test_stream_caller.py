"""A stream of tokens is read to its end; one that is not whole is no answer."""

from __future__ import annotations

import json

import pytest

from rumormill.cli.demo.stream_caller import CompletionStream, StreamBroken


def chunk(text: str, finish_reason: str | None = None) -> str:
    return "data: " + json.dumps({"choices": [{"text": text, "finish_reason": finish_reason}]})


def read(*lines: str) -> str:
    stream = CompletionStream()
    for line in lines:
        stream.feed(line)
    return stream.end()


def test_tokens_come_in_order_and_comments_and_empty_lines_are_skipped() -> None:
    lines = (
        chunk("It "),
        "",
        ": still here",
        chunk("is"),
        chunk("", "length"),
        'data: {"choices": []}',
        "data: [DONE]",
    )
    assert read(*lines) == "It is"


@pytest.mark.parametrize("end", [(), ("data: [DONE]",), (chunk(" cut"),)])
def test_a_stream_that_ends_too_early_is_broken(end: tuple[str, ...]) -> None:
    with pytest.raises(StreamBroken, match="before the model had finished"):
        read(chunk("It "), *end)


@pytest.mark.parametrize(
    "odd", ["{}", '{"choices": 1}', '{"choices": [[]]}', "[]", "no JSON", '{"choices": [{"text": 1}]}']
)
def test_a_chunk_of_another_form_is_broken(odd: str) -> None:
    with pytest.raises(StreamBroken, match="not the form of OpenAI's"):
        read(f"data: {odd}")
