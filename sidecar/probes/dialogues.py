"""What each kind of HTTP probe asks, and how it judges the answer. Pure: no connection is known here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from rumormill.sidecar.probes.answers import (
    chat_text_untrusted,
    completion_text_untrusted,
    decode_json_untrusted,
    embedding_untrusted,
    numbers_at_untrusted,
    tensor_untrusted,
    text_at_untrusted,
)
from rumormill.sidecar.probes.expectations import (
    NotExpected,
    check_golden,
    check_length,
    check_norm,
    check_not_repeated,
    check_not_zero,
    check_pattern,
    check_schema,
    count,
    norm_of,
    quoted,
)
from rumormill.sidecar.probes.json_schema import compile_schema
from rumormill.sidecar.probes.specification import (
    ChatSpec,
    EmbeddingsSpec,
    Expect,
    GenerationSpec,
    HttpBased,
    HttpSpec,
    KserveSpec,
    TextExpect,
    VectorExpect,
)

CONFIRMING_TOKENS = 16
"""Tokens that are asked for when a single token looks wrong."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is as expected."""

    text: str
    """It in a few words."""
    vector: tuple[float, ...] = ()
    doubtful: bool = False
    """Whether more must be asked before it counts as right."""


class Dialogue(Protocol):
    """One kind of probe. ``judge_untrusted`` raises :class:`NotExpected`."""

    def body(self, model: str) -> dict[str, Any] | None:
        """The JSON body of the request."""

    def judge_untrusted(self, body: bytearray) -> Answer:
        """Judge the body of an answer whose status is right."""

    @property
    def expected(self) -> str:
        """What a right answer is like."""


class _SchemaCheck:
    """The JSON Schema of an expectation, compiled once."""

    def __init__(self, expect: Expect) -> None:
        self._validate = None if expect.schema is None else compile_schema(expect.schema)

    def check(self, answer: object) -> None:
        if self._validate is not None:
            check_schema(answer, self._validate)

    @property
    def expected(self) -> list[str]:
        return [] if self._validate is None else ["fits the JSON Schema"]


def check_vector(vector: list[float], expect: VectorExpect) -> Answer:
    """Judge a finite vector. Raises :class:`NotExpected`."""
    check_not_zero(vector)
    if expect.length is not None:
        check_length(vector, expect.length)
    if expect.norm is not None:
        check_norm(vector, expect.norm, expect.norm_tolerance)
    if expect.golden:
        check_golden(vector, expect.golden, expect.golden_tolerance)
    return Answer(f"a vector of {count(len(vector), 'number')}, norm {norm_of(vector):.4g}", tuple(vector))


def expected_of_vector(expect: VectorExpect) -> list[str]:
    """The expectations in words."""
    length = expect.length or len(expect.golden)
    words = [f"a vector of {length} finite numbers" if length else "a vector of finite numbers", "not all zeros"]
    if expect.norm is not None:
        words.append(f"norm {expect.norm:g} ± {expect.norm_tolerance:g}")
    if expect.golden:
        words.append(f"cosine distance to the golden vector at most {expect.golden_tolerance:g}")
    return words


class VectorDialogue:
    """Embeddings and KServe v2: one input, one vector."""

    def __init__(self, spec: EmbeddingsSpec | KserveSpec) -> None:
        self._spec = spec
        self._schema = _SchemaCheck(spec.expect)

    def body(self, model: str) -> dict[str, Any]:
        spec = self._spec
        if isinstance(spec, KserveSpec):
            tensors = [msgspec.to_builtins(tensor) for tensor in spec.inputs]
            return {"inputs": tensors, **(spec.body or {})}
        named = {"model": model} if model else {}
        return {**named, "input": spec.input, "encoding_format": "float", **(spec.body or {})}

    def judge_untrusted(self, body: bytearray) -> Answer:
        return self.judge_answer_untrusted(decode_json_untrusted(body))

    def judge_answer_untrusted(self, answer: object) -> Answer:
        """Judge an answer that has been decoded."""
        spec = self._spec
        self._schema.check(answer)
        if isinstance(spec, KserveSpec):
            return check_vector(tensor_untrusted(answer, spec.output), spec.expect)
        return check_vector(embedding_untrusted(answer), spec.expect)

    @property
    def expected(self) -> str:
        return ", ".join((*expected_of_vector(self._spec.expect), *self._schema.expected))


class TextDialogue:
    """Chat and completions: a prompt, a few tokens."""

    def __init__(self, spec: GenerationSpec) -> None:
        self._spec = spec
        self.stream = spec.stream
        self._schema = _SchemaCheck(spec.expect)
        self._pattern = re.compile(spec.expect.pattern)
        self._chat = isinstance(spec, ChatSpec)

    def body(self, model: str) -> dict[str, Any]:
        spec = self._spec
        prompt = {"messages": [{"role": "user", "content": spec.prompt}]} if self._chat else {"prompt": spec.prompt}
        named = {"model": model} if model else {}
        stream = {"stream": True} if spec.stream else {}
        return {**named, **prompt, "max_tokens": spec.tokens, "temperature": 0, **stream, **(spec.body or {})}

    def judge_untrusted(self, body: bytearray) -> Answer:
        answer = decode_json_untrusted(body)
        self._schema.check(answer)
        return self.judge_text(chat_text_untrusted(answer) if self._chat else completion_text_untrusted(answer))

    def judge_text(self, text: str) -> Answer:
        """Judge the text of an answer, or of a stream."""
        expect: TextExpect = self._spec.expect
        few = self._spec.tokens < CONFIRMING_TOKENS and not expect.allow_repetition
        if few and not any(map(str.isalnum, text)):
            return Answer(f"the text {quoted(text)}", doubtful=True)  # a space before a word, or the first of many "!"
        if not text:
            raise NotExpected("the text is empty")
        if not expect.allow_repetition:
            check_not_repeated(text)
        check_pattern(text, self._pattern)
        return Answer(f"the text {quoted(text)}")

    def confirming(self) -> TextDialogue:
        """The same probe with enough tokens to tell whether one is repeated."""
        return TextDialogue(msgspec.structs.replace(self._spec, tokens=CONFIRMING_TOKENS))

    @property
    def expected(self) -> str:
        expect = self._spec.expect
        words = [f"a text that matches {expect.pattern!r}" if expect.pattern else "a text"]
        if not expect.allow_repetition:
            words.append("not one token over and over")
        return ", ".join((*words, *self._schema.expected))


class HttpDialogue:
    """Any request."""

    def __init__(self, spec: HttpSpec) -> None:
        self._spec = spec
        self._schema = _SchemaCheck(spec.expect)
        self._pattern = re.compile(spec.expect.pattern)

    def body(self, _model: str) -> dict[str, Any] | None:
        return self._spec.body

    def judge_untrusted(self, body: bytearray) -> Answer:
        expect = self._spec.expect
        said = [f"{count(len(body), 'byte')}"]
        vector: tuple[float, ...] = ()
        if expect.schema is not None or expect.vector or expect.text:
            answer = decode_json_untrusted(body)
            self._schema.check(answer)
            if expect.vector:
                found = check_vector(numbers_at_untrusted(answer, expect.vector), expect)
                vector = found.vector
                said.append(found.text)
            text = text_at_untrusted(answer, expect.text) if expect.text else body.decode("utf-8", "replace")
        else:
            text = body.decode("utf-8", "replace")
        check_pattern(text, self._pattern)
        return Answer(": ".join(said), vector)

    @property
    def expected(self) -> str:
        expect = self._spec.expect
        words = [f"status {' or '.join(map(str, expect.status))}" if expect.status else "a status from 200 to 299"]
        if expect.vector:
            words += expected_of_vector(expect)
        if expect.pattern:
            words.append(f"{expect.text or 'a body'} that matches {expect.pattern!r}")
        return ", ".join((*words, *self._schema.expected))


def dialogue_of(spec: HttpBased) -> VectorDialogue | TextDialogue | HttpDialogue:
    """What a probe of this specification asks and expects."""
    match spec:
        case EmbeddingsSpec() | KserveSpec():
            return VectorDialogue(spec)
        case GenerationSpec():
            return TextDialogue(spec)
        case HttpSpec():
            return HttpDialogue(spec)
    raise TypeError(f"no HTTP probe: {type(spec).__name__}")
