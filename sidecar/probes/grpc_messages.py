"""The messages of two gRPC services, described to protobuf at run time, so that no generated code is kept.

``grpc.health.v1`` (github.com/grpc/grpc-proto) and ``inference.GRPCInferenceService`` of the Open Inference Protocol v2
(github.com/kserve/open-inference-protocol): only the fields that a probe uses. Their numbers are those of the published
files; a field that is not listed is skipped when it is read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from rumormill.sidecar.probes.expectations import NotExpected
from rumormill.sidecar.probes.specification import KserveSpec, Tensor

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
INFER_METHOD = "/inference.GRPCInferenceService/ModelInfer"
SERVING_STATUS = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")

_FieldKind = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _FieldKind.TYPE_BOOL,
    "int32": _FieldKind.TYPE_INT32,
    "int64": _FieldKind.TYPE_INT64,
    "uint32": _FieldKind.TYPE_UINT32,
    "uint64": _FieldKind.TYPE_UINT64,
    "float": _FieldKind.TYPE_FLOAT,
    "double": _FieldKind.TYPE_DOUBLE,
    "string": _FieldKind.TYPE_STRING,
    "bytes": _FieldKind.TYPE_BYTES,
}
_MESSAGES: Mapping[str, tuple[tuple[int, str, str], ...]] = {
    "HealthRequest": ((1, "service", "string"),),
    "HealthResponse": ((1, "status", "int32"),),
    "Contents": (
        (1, "bool_contents", "bool*"),
        (2, "int_contents", "int32*"),
        (3, "int64_contents", "int64*"),
        (4, "uint_contents", "uint32*"),
        (5, "uint64_contents", "uint64*"),
        (6, "fp32_contents", "float*"),
        (7, "fp64_contents", "double*"),
    ),
    "InferRequest": (
        (1, "model_name", "string"),
        (2, "model_version", "string"),
        (5, "inputs", "InputTensor*"),
    ),
    "InputTensor": (
        (1, "name", "string"),
        (2, "datatype", "string"),
        (3, "shape", "int64*"),
        (5, "contents", "Contents"),
    ),
    "InferResponse": (
        (1, "model_name", "string"),
        (5, "outputs", "OutputTensor*"),
        (6, "raw_output_contents", "bytes*"),
    ),
    "OutputTensor": (
        (1, "name", "string"),
        (2, "datatype", "string"),
        (3, "shape", "int64*"),
        (5, "contents", "Contents"),
    ),
}
"""By message: number, name and type of its fields; a star for a repeated one."""
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where the numbers of a type stand."""
_RAW = dict(
    zip(
        ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"),
        "?bhiqBHIQefd",
        strict=True,
    )
)
"""The numbers of a type as raw bytes, little-endian, in the letters of :mod:`struct`."""


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="rumormill/probes.proto", package="rumormill.probes", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            bare = kind.rstrip("*")
            label = _FieldKind.LABEL_REPEATED if kind.endswith("*") else _FieldKind.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if bare in _TYPES:
                added.type = _TYPES[bare]
            else:
                added.type, added.type_name = _FieldKind.TYPE_MESSAGE, f".rumormill.probes.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"rumormill.probes.{name}")) for name in _MESSAGES}


_CLASSES = _message_classes()


def encode_health_request(service: str) -> bytes:
    return bytes(_CLASSES["HealthRequest"](service=service).SerializeToString())


def health_status_untrusted(data: bytes) -> str:
    """The name of the status in a health answer."""
    status = _parsed_untrusted("HealthResponse", data).status
    return SERVING_STATUS[status] if 0 <= status < len(SERVING_STATUS) else f"status {status}"


def encode_infer_request(spec: KserveSpec) -> bytes:
    """Raises ValueError or TypeError for a number that its type cannot hold."""
    request = _CLASSES["InferRequest"](model_name=spec.model, model_version=spec.version)
    for tensor in spec.inputs:
        request.inputs.append(_input(tensor))
    return bytes(request.SerializeToString())


def _input(tensor: Tensor) -> Any:
    kind = bool if tensor.datatype == "BOOL" else float if tensor.datatype.startswith("FP") else int
    contents = _CLASSES["Contents"](**{_CONTENTS[tensor.datatype]: [kind(number) for number in tensor.data]})
    return _CLASSES["InputTensor"](
        name=tensor.name, datatype=tensor.datatype, shape=list(tensor.shape), contents=contents
    )


def infer_answer_untrusted(data: bytes) -> dict[str, Any]:
    """An inference's answer in the form that it has over HTTP. Raises :class:`NotExpected`."""
    response = _parsed_untrusted("InferResponse", data)
    raw = list(response.raw_output_contents)
    outputs = []
    for position, output in enumerate(response.outputs):
        if raw:
            numbers = _raw_numbers_untrusted(output, raw[position]) if position < len(raw) else []
        else:
            numbers = list(getattr(output.contents, _CONTENTS.get(output.datatype, "fp32_contents")))
        outputs.append({"name": output.name, "shape": list(output.shape), "data": numbers})
    return {"outputs": outputs}


def _raw_numbers_untrusted(output: Any, raw: bytes) -> list[Any]:
    if output.datatype not in _RAW:
        raise NotExpected(f"the output {output.name[:60]!r} is of type {output.datatype[:20]!r} and not of numbers")
    letter = _RAW[output.datatype]
    number, rest = divmod(len(raw), struct.calcsize(f"<{letter}"))
    if rest or number != math.prod(output.shape):
        raise NotExpected(f"the output {output.name[:60]!r} has {len(raw)} bytes, which do not fit its shape")
    return list(struct.unpack(f"<{number}{letter}", raw))


def _parsed_untrusted(name: str, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    message = _CLASSES[name]()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise NotExpected("the answer is not the message that the service should send") from None
    return message
