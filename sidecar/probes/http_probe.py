"""Asks the worker over HTTP and judges the answer: embeddings, chat, completions, KServe v2, or any request."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import msgspec
import trio

from rumormill.sidecar.http_exchange import encode_request
from rumormill.sidecar.probes.answers import TokenStream, at_untrusted, decode_json_untrusted, error_text_untrusted
from rumormill.sidecar.probes.dialogues import Answer, HttpDialogue, TextDialogue, VectorDialogue, dialogue_of
from rumormill.sidecar.probes.expectations import NotExpected
from rumormill.sidecar.probes.http_attempt import HttpAttempt, NoAnswer
from rumormill.sidecar.probes.outcome import ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.secret import Secret
from rumormill.sidecar.probes.specification import (
    ChatSpec,
    EmbeddingsSpec,
    GenerationSpec,
    HttpBased,
    HttpSpec,
    KserveSpec,
)
from rumormill.sidecar.settings_values import WorkerUrl

MODELS_PATH = "/v1/models"
MAX_MODEL_CHARACTERS = 256


class Overloaded(Exception):
    """The worker refused because it has too much to do. The text is the reason."""


class HttpProbe:
    """One worker's probe. Each run opens a connection of its own for each request."""

    def __init__(self, spec: HttpBased, worker: WorkerUrl) -> None:
        """Reads the key file. Raises :class:`rumormill.sidecar.SettingsError`."""
        self._spec = spec
        self._worker = worker
        self._secret = Secret.read(spec.api_key_file)
        self._dialogue = dialogue_of(spec)
        self._tls = ssl.create_default_context() if worker.secure else None
        self._path = _path_of(spec)
        self._model = getattr(spec, "model", "")
        """Empty until the worker has been asked which it serves."""
        self._began = 0.0
        self._attempt: HttpAttempt | None = None
        self._first_token: float | None = None

    @property
    def description(self) -> str:
        key = f", with the key in {self._spec.api_key_file}" if self._secret else ""
        return f"{self._spec.method} {self._worker}{self._path}{self._asked()}{key}"

    def _asked(self) -> str:
        spec = self._spec
        match spec:
            case EmbeddingsSpec():
                asked = f", the embedding of {spec.input[:60]!r}"
            case GenerationSpec():
                stream = " as a stream" if spec.stream else ""
                asked = f", {spec.tokens} token{'s' * (spec.tokens > 1)}{stream} after {spec.prompt[:60]!r}"
            case KserveSpec():
                asked = f", with the inputs {', '.join(tensor.name for tensor in spec.inputs)}"
            case _:
                asked = ", with a JSON body" if spec.body else ""
        return asked + (f", model {self._model}" if self._model and not isinstance(spec, KserveSpec) else "")

    @property
    def expected(self) -> str:
        what = "the first token" if getattr(self._spec, "stream", False) else "all of it"
        return f"{self._dialogue.expected}; {what} within {self._spec.budget}"

    async def run(self) -> ProbeOutcome:
        """Ask once."""
        self._began = trio.current_time()
        self._attempt, self._first_token = None, None
        answer = Answer("")
        with trio.move_on_after(self._spec.give_up) as scope:
            try:
                answer = await self._ask()
                verdict, reason = self._in_time(self._seconds())
            except NotExpected as error:
                verdict, reason = ProbeVerdict.WRONG, str(error)
            except Overloaded as error:
                verdict, reason = ProbeVerdict.SLOW, str(error)
            except NoAnswer as error:
                verdict, reason = (ProbeVerdict.TIMED_OUT if error.local else ProbeVerdict.SILENT), str(error)
        if scope.cancelled_caught:
            verdict, reason = ProbeVerdict.TIMED_OUT, self._gave_up()
        seconds = self._seconds()
        label = f"{self._spec.method} {self._path}"
        return ProbeOutcome(verdict, self._hide(f"{label}: {reason}"), seconds, self._hide(answer.text), answer.vector)

    def _in_time(self, seconds: float) -> tuple[ProbeVerdict, str]:
        if seconds <= self._spec.budget:
            return ProbeVerdict.RIGHT, f"as expected after {seconds:.3g} s"
        what = "the first token" if self._first_token else "the answer"
        return (
            ProbeVerdict.SLOW,
            f"{what} is right but came after {seconds:.3g} s, over the {self._spec.budget} allowed",
        )

    def _gave_up(self) -> str:
        return self._attempt.progress() if self._attempt else f"no connection within {self._spec.give_up}"

    def _hide(self, text: str) -> str:
        return self._secret.hide_in(text) if self._secret else text

    def _seconds(self) -> float:
        """Time since the request was sent; until the first token, once it has come."""
        return trio.current_time() - self._began if self._first_token is None else self._first_token

    async def _ask(self) -> Answer:
        if not self._model and isinstance(self._spec, EmbeddingsSpec | GenerationSpec):
            self._model = await self._first_model()
            self._began = trio.current_time()
        dialogue = self._dialogue
        answer = await self._ask_once(dialogue)
        if isinstance(dialogue, TextDialogue) and answer.doubtful:
            self._first_token = self._seconds()
            answer = await self._ask_once(dialogue.confirming())
        return answer

    async def _ask_once(self, dialogue: VectorDialogue | TextDialogue | HttpDialogue) -> Answer:
        spec = self._spec
        fields = dialogue.body(self._model)
        body = None if fields is None else msgspec.json.encode(fields)
        if isinstance(dialogue, TextDialogue) and dialogue.stream:
            return dialogue.judge_text(await self._streamed_text(body))
        answer = dialogue.judge_untrusted(await self._body_of(spec.method, self._path, body))
        if isinstance(dialogue, HttpDialogue) and self._attempt is not None:
            answer = replace(answer, text=f"status {self._attempt.response.status}, {answer.text}")
        return answer

    async def _streamed_text(self, body: bytes | None) -> str:
        stream = TokenStream(chat=isinstance(self._spec, ChatSpec))
        read = 0

        def on_body(so_far: bytearray) -> bool:
            nonlocal read
            stream.feed_untrusted(so_far[read:])
            read = len(so_far)
            if stream.text and self._first_token is None:
                self._first_token = self._seconds()
            return stream.done

        await self._body_of(self._spec.method, self._path, body, on_body)
        if not stream.events:
            raise NotExpected("the stream ended without a token")
        return stream.text

    async def _body_of(
        self, method: str, path: str, body: bytes | None, on_body: Callable[[bytearray], bool] | None = None
    ) -> bytearray:
        """The body of an answer whose status is right. ``on_body`` sees it grow, and ends reading if it is true."""
        request = encode_request(self._worker, path, method=method, headers=self._headers(body), body=body)
        attempt = self._attempt = HttpAttempt(self._worker.endpoint, self._tls, request)

        def on_right_body(so_far: bytearray) -> bool:
            return on_body is not None and self._right(attempt.response.status) and on_body(so_far)

        await attempt.run(on_right_body)
        found = attempt.response.body
        self._check_status(attempt.response.status, found)
        return self._secret.hide_in_bytes(found) if self._secret else found

    def _headers(self, body: bytes | None) -> list[tuple[str, str]]:
        spec, headers = self._spec, []
        if body is not None and "content-type" not in map(str.lower, spec.headers):
            headers.append(("Content-Type", "application/json"))
        if self._secret is not None:
            scheme = "Bearer " if spec.api_key_header.lower() == "authorization" else ""
            headers.append((spec.api_key_header, f"{scheme}{self._secret.reveal()}"))
        return [*headers, *spec.headers.items()]

    def _right(self, status: int | None) -> bool:
        wanted = self._spec.expect.status if isinstance(self._spec, HttpSpec) else ()
        return status is not None and (status in wanted if wanted else 200 <= status <= 299)

    def _check_status(self, status: int | None, body: bytearray) -> None:
        if self._right(status):
            return
        said = error_text_untrusted(self._secret.hide_in_bytes(body) if self._secret else body)
        text = f"it answered {status}" + (f": {said}" if said else "")
        if status in self._spec.busy_status:
            raise Overloaded(f"it is overloaded, {text}")
        if not getattr(self._spec, "model", ""):
            self._model = ""  # ask again: the worker may serve another model now
        raise NotExpected(text + self._hint(status))

    def _hint(self, status: int | None) -> str:
        if status in (401, 403):
            return "; check its api-key-file" if self._secret else "; add api-key-file to the probe file"
        if status in (400, 404, 405, 501):
            return "; if the worker does not serve this path, set --probe to what it serves (embeddings, say), or none"
        return ""

    async def _first_model(self) -> str:
        """The first model that the worker says it serves; empty if it does not say."""
        try:
            answer = decode_json_untrusted(await self._body_of("GET", MODELS_PATH, None))
            model = at_untrusted(answer, "data.0.id")
        except NotExpected:
            return ""
        usable = isinstance(model, str) and model.isprintable() and len(model) <= MAX_MODEL_CHARACTERS
        return model if usable else ""


def _path_of(spec: HttpBased) -> str:
    if isinstance(spec, KserveSpec) and not spec.path:
        version = f"/versions/{quote(spec.version, safe='')}" if spec.version else ""
        return f"/v2/models/{quote(spec.model, safe='')}{version}/infer"
    return spec.path
