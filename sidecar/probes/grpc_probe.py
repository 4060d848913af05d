"""Asks the worker over gRPC: its health (``grpc.health.v1``), or one inference by KServe v2.

grpcio and protobuf are imported when such a probe is built (``pip install 'rumormill[grpc]'``). Each run has a channel
of its own, and with it a connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.probes.dialogues import Answer, VectorDialogue
from rumormill.sidecar.probes.expectations import NotExpected, shortened
from rumormill.sidecar.probes.http_attempt import MAX_BODY_BYTES, NoAnswer
from rumormill.sidecar.probes.outcome import ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.secret import Secret
from rumormill.sidecar.probes.specification import GrpcSpec, KserveSpec, target_of
from rumormill.sidecar.settings_values import WorkerUrl

_QUIET = {"GRPC_VERBOSITY": "NONE", "GRPC_ENABLE_FORK_SUPPORT": "0"}
"""For grpcio, which writes to stderr otherwise, and watches forks that never use it here."""


class GrpcProbe:
    """One worker's probe over gRPC."""

    def __init__(self, spec: GrpcSpec | KserveSpec, worker: WorkerUrl) -> None:
        """Reads the key file. Raises :class:`rumormill.sidecar.SettingsError`."""
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import grpc

        from rumormill.sidecar.probes import grpc_messages

        self._grpc: Any = grpc
        self._credentials = grpc.ssl_channel_credentials(_root_certificates()) if worker.secure else None
        self._spec = spec
        self._target = target_of(spec, worker.endpoint)
        self._secret = Secret.read(spec.api_key_file)
        self._judge: Callable[[bytes], Answer]
        if isinstance(spec, GrpcSpec):
            self._method, self._request = grpc_messages.HEALTH_METHOD, grpc_messages.encode_health_request(spec.service)
            self._judge, self._expected = _judge_health, "SERVING"
        else:
            self._method, self._request = grpc_messages.INFER_METHOD, _infer_request(spec)
            dialogue = VectorDialogue(spec)
            self._judge = lambda data: dialogue.judge_answer_untrusted(grpc_messages.infer_answer_untrusted(data))
            self._expected = dialogue.expected
        what = f"service {spec.service!r}" if isinstance(spec, GrpcSpec) else f"model {spec.model}"
        self.description = f"gRPC {self._target}{self._method}, {what}" + self._key_text()

    def _key_text(self) -> str:
        return f", with the key in {self._spec.api_key_file}" if self._secret else ""

    @property
    def expected(self) -> str:
        return f"{self._expected}; all of it within {self._spec.budget}"

    async def run(self) -> ProbeOutcome:
        """Ask once."""
        began = trio.current_time()
        answer = Answer("")
        verdict, reason = ProbeVerdict.TIMED_OUT, f"no answer within {self._spec.give_up}"
        with trio.move_on_after(self._spec.give_up):
            try:
                answer = self._judge(await self._call())
                verdict, reason = ProbeVerdict.RIGHT, "as expected"
            except NotExpected as error:
                verdict, reason = ProbeVerdict.WRONG, str(error)
            except NoAnswer as error:
                verdict, reason = (ProbeVerdict.TIMED_OUT if error.local else ProbeVerdict.SILENT), str(error)
            except _Overloaded as error:
                verdict, reason = ProbeVerdict.SLOW, str(error)
        seconds = trio.current_time() - began
        if verdict is ProbeVerdict.RIGHT:
            reason = f"as expected after {seconds:.3g} s"
            if seconds > self._spec.budget:
                verdict = ProbeVerdict.SLOW
                reason = f"the answer is right but came after {seconds:.3g} s, over the {self._spec.budget} allowed"
        return ProbeOutcome(
            verdict, self._hide(f"gRPC {self._method}: {reason}"), seconds, self._hide(answer.text), answer.vector
        )

    def _hide(self, text: str) -> str:
        return self._secret.hide_in(text) if self._secret else text

    async def _call(self) -> bytes:
        """The answer's bytes. Raises :class:`NoAnswer`, :class:`NotExpected` or :class:`_Overloaded`."""
        metadata = [("authorization", f"Bearer {self._secret.reveal()}")] if self._secret else []
        channel = self._channel()
        try:
            method = channel.unary_unary(self._method, request_serializer=None, response_deserializer=None)
            call = method.future(self._request, timeout=self._spec.give_up, metadata=metadata)
            await _ended(call)
            try:
                return bytes(call.result())
            except self._grpc.RpcError:
                raise _explained(call.code().name, str(call.details())) from None
        finally:
            channel.close()

    def _channel(self) -> Any:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", MAX_BODY_BYTES),
        ]
        if self._credentials is not None:
            return self._grpc.secure_channel(self._target, self._credentials, options)
        return self._grpc.insecure_channel(self._target, options)


class _Overloaded(Exception):
    """The worker refused because it has too much to do."""


def _judge_health(data: bytes) -> Answer:
    from rumormill.sidecar.probes.grpc_messages import health_status_untrusted

    status = health_status_untrusted(data)
    if status != "SERVING":
        raise NotExpected(f"it says {status}")
    return Answer(status)


def _infer_request(spec: KserveSpec) -> bytes:
    from rumormill.sidecar.probes.grpc_messages import encode_infer_request

    try:
        return encode_infer_request(spec)
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"an input of the KServe probe does not fit its datatype: {error}", "correct data or datatype of the input"
        ) from None


async def _ended(call: Any) -> None:
    """Wait until a call has ended; it is cancelled if this is."""
    done, token = trio.Event(), trio.lowlevel.current_trio_token()

    def wake(_call: Any) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    call.add_done_callback(wake)
    try:
        await done.wait()
    except trio.Cancelled:
        call.cancel()
        raise


def _explained(code: str, details: str) -> Exception:
    text = f"{code}: {shortened(details)}" if details else code
    match code:
        case "UNAVAILABLE":
            return NoAnswer(text)
        case "DEADLINE_EXCEEDED":
            return NoAnswer(text, local=True)
        case "RESOURCE_EXHAUSTED" if "larger than max" not in details:
            return _Overloaded(f"it is overloaded, it answered {text}")
    return NotExpected(f"it answered {text}")


def _root_certificates() -> bytes | None:
    """The authorities in SSL_CERT_FILE; None for those of grpcio."""
    path = os.environ.get("SSL_CERT_FILE")
    return Path(path).read_bytes() if path else None
