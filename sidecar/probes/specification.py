"""What a probe asks and expects, as structures: one for each kind of probe, with a default for what it can.

A probe file (:mod:`rumormill.sidecar.probes.probe_file`) and an engine's profile both end as one of these. Times are in
seconds. Each is valid once :func:`rumormill.sidecar.probes.probe_check.checked` has seen it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rumormill.sidecar.settings_values import HostPort, Seconds

PROBE_INPUT = "The quick brown fox jumps over the lazy dog."
"""What an embeddings probe asks for."""
PROBE_PROMPT = "Go on counting: 1 2 3 4 5 6 7"
"""What a chat or completions probe asks for. A model that works does not answer with "!"."""

Tolerance = Annotated[float, Meta(ge=0, le=2)]
Length = Annotated[int, Meta(ge=1, le=65_536)]
Status = Annotated[int, Meta(ge=200, le=599)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Refuses keys that it does not know."""


class Expect(_Strict, frozen=True, kw_only=True):
    """What holds for any JSON answer."""

    schema: dict[str, Any] | None = None
    """A JSON Schema of draft 7 for the whole answer."""


class VectorExpect(Expect, frozen=True, kw_only=True):
    """An answer with a vector. It must be finite and not zero in any case."""

    length: Length | None = None
    """How many numbers the vector has."""
    norm: Annotated[float, Meta(gt=0)] | None = None
    """The vector's Euclidean norm."""
    norm_tolerance: Tolerance = 0.01
    """How far the norm may lie from that."""
    golden: tuple[float, ...] = ()
    """The vector that a healthy worker gives for this input. It also sets the expected length."""
    golden_tolerance: Tolerance = 0.01
    """The largest cosine distance to that vector. Larger: more noise of a healthy engine is accepted, and more wrong
    answers too."""


class TextExpect(Expect, frozen=True, kw_only=True):
    """An answer with a text."""

    pattern: str = ""
    """A regular expression that is found in the text."""
    allow_repetition: bool = False
    """Accept a text that only repeats one token."""


class HttpExpect(VectorExpect, frozen=True, kw_only=True):
    """Any HTTP answer."""

    status: tuple[Status, ...] = ()
    """The statuses that are right. Default: 200 to 299."""
    vector: str = ""
    """Where the vector stands, such as ``data.0.embedding``."""
    text: str = ""
    """Where the text for the pattern stands; the whole body if empty."""
    pattern: str = ""
    """A regular expression that is found in that text."""


class CommandExpect(_Strict, frozen=True, kw_only=True):
    """The end of a command."""

    exit_code: Annotated[int, Meta(ge=0, le=255)] = 0
    """The exit code that is right."""
    pattern: str = ""
    """A regular expression that is found in what the command prints."""


class ProbeSpec(_Strict, frozen=True, kw_only=True):
    """What all kinds have."""

    budget: Seconds = Seconds(0.5)
    """Time within which the answer, or the first token of a stream, must come. Larger: a slow worker is found later."""
    give_up: Seconds = Seconds(3)
    """Time after which the probe stops waiting. Larger: a hanging worker is found later."""

    @property
    def kind(self) -> str:
        """Its name in a probe file."""
        return next(name for name, kind in KINDS.items() if type(self) is kind)


class HttpBased(ProbeSpec, frozen=True, kw_only=True):
    """A probe that sends one HTTP request."""

    path: str
    """It is appended to the path of the worker's URL."""
    method: Literal["GET", "POST", "PUT"] = "POST"
    """The method of the request."""
    headers: dict[str, str] = {}
    """More headers. None of them may hold a secret."""
    api_key_file: Path | None = None
    """A file of mode 0600 whose only line is the key."""
    api_key_header: str = "Authorization"
    """The header that carries the key. In ``Authorization``, the word ``Bearer`` comes before the key."""
    body: dict[str, Any] | None = None
    """Fields of the JSON body. They are added to the fields of this kind, and replace fields of the same name."""
    busy_status: tuple[Status, ...] = (429,)
    """Statuses with which a worker refuses because it is overloaded. Such an answer counts as slow, not as wrong."""


class EmbeddingsSpec(HttpBased, frozen=True, kw_only=True):
    """The embedding of one text, by the OpenAI API."""

    path: str = "/v1/embeddings"
    model: str = ""
    """Empty: the first that ``/v1/models`` names."""
    input: str = PROBE_INPUT
    """The text."""
    expect: VectorExpect = VectorExpect()


class GenerationSpec(HttpBased, frozen=True, kw_only=True):
    """A few tokens at temperature 0, by the OpenAI API."""

    model: str = ""
    """Empty: the first that ``/v1/models`` names."""
    prompt: str = PROBE_PROMPT
    """What the model is asked."""
    tokens: Annotated[int, Meta(ge=1, le=256)] = 1
    """How many tokens are asked for. If a single token is not a word, the probe asks for more at once."""
    stream: bool = False
    """Whether the answer is streamed. The budget is then for the first token."""
    expect: TextExpect = TextExpect()


class ChatSpec(GenerationSpec, frozen=True, kw_only=True):
    """An answer to one message, by the OpenAI API."""

    path: str = "/v1/chat/completions"


class CompletionsSpec(GenerationSpec, frozen=True, kw_only=True):
    """A few tokens after a prompt, by the OpenAI API."""

    path: str = "/v1/completions"


class Tensor(_Strict, frozen=True, kw_only=True):
    """One input of a KServe v2 request."""

    name: str
    """As the model knows it."""
    datatype: Literal["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32", "FP64"]
    """The type of each element."""
    shape: tuple[Annotated[int, Meta(ge=0, le=1 << 31)], ...]
    """The sizes of its dimensions."""
    data: tuple[bool | int | float, ...]
    """Its elements in row-major order."""


class KserveSpec(HttpBased, frozen=True, kw_only=True):
    """One inference by the Open Inference Protocol v2."""

    path: str = ""
    """Empty: ``/v2/models/MODEL/infer``. Not used with gRPC."""
    model: Annotated[str, Meta(min_length=1)]
    """Its name on the server."""
    version: str = ""
    """Its version; the server's choice if empty."""
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    """Tables ``[[inputs]]`` with ``name``, ``datatype``, ``shape`` and ``data`` in row-major order."""
    output: str = ""
    """The output that is judged; the first if empty."""
    transport: Literal["http", "grpc"] = "http"
    """How it is asked. ``grpc`` needs ``rumormill[grpc]``."""
    target: str = ""
    """``HOST:PORT`` for gRPC; the worker's own if empty."""
    expect: VectorExpect = VectorExpect()


class HttpSpec(HttpBased, frozen=True, kw_only=True):
    """Any HTTP request."""

    method: Literal["GET", "POST", "PUT"] = "GET"
    """The method of the request."""
    expect: HttpExpect = HttpExpect()


class GrpcSpec(ProbeSpec, frozen=True, kw_only=True):
    """``grpc.health.v1.Health/Check``: right if it says SERVING."""

    target: str = ""
    """``HOST:PORT``; the worker's own if empty."""
    service: str = ""
    """The service whose health is asked; the whole server's if empty."""
    api_key_file: Path | None = None
    """A file of mode 0600 whose only line is the key; it is sent as a bearer token."""


class TcpSpec(ProbeSpec, frozen=True, kw_only=True):
    """A connection that is accepted."""

    target: str = ""
    """``HOST:PORT``; the worker's own if empty."""


class CommandSpec(ProbeSpec, frozen=True, kw_only=True):
    """A command and its exit code."""

    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    """The program and its arguments. No shell reads them."""
    expect: CommandExpect = CommandExpect()


KINDS: dict[str, type[ProbeSpec]] = {
    "embeddings": EmbeddingsSpec,
    "chat": ChatSpec,
    "completions": CompletionsSpec,
    "kserve": KserveSpec,
    "http": HttpSpec,
    "grpc": GrpcSpec,
    "tcp": TcpSpec,
    "command": CommandSpec,
}
"""By the name of the kind."""
NO_PROBE = "none"
"""The name that stands for no probe."""


def target_of(spec: KserveSpec | GrpcSpec | TcpSpec, endpoint: HostPort) -> HostPort:
    """Where a probe connects; ``endpoint`` is the worker's."""
    return HostPort.parse(spec.target) if spec.target else endpoint
