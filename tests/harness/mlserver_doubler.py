"""A runtime for MLServer, imported in MLServer's own environment: doubles its input, one request at a time."""

from __future__ import annotations

import time

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Doubler(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The parameter ``seconds`` says how long it computes; nothing else is answered meanwhile."""
        seconds = getattr(payload.parameters, "seconds", 0) if payload.parameters else 0
        time.sleep(seconds)
        given = payload.inputs[0]
        data = [2 * number for number in given.data]
        output = ResponseOutput(name="y", shape=given.shape, datatype=given.datatype, data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])
