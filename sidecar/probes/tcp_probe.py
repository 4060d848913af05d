"""Whether a connection is accepted. It says nothing about the engine; for workers that speak no HTTP."""

from __future__ import annotations

import trio

from rumormill.sidecar.http_exchange import caused_by_worker, describe_error
from rumormill.sidecar.probes.outcome import ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.specification import TcpSpec, target_of
from rumormill.sidecar.settings_values import WorkerUrl


class TcpProbe:
    """Connects and closes the connection."""

    expected = "a connection that is accepted"

    def __init__(self, spec: TcpSpec, worker: WorkerUrl) -> None:
        self._spec = spec
        self._target = target_of(spec, worker.endpoint)
        self.description = f"a TCP connection to {self._target}"

    async def run(self) -> ProbeOutcome:
        """Ask once."""
        began = trio.current_time()
        verdict, reason = ProbeVerdict.TIMED_OUT, f"no connection within {self._spec.give_up}"
        with trio.move_on_after(self._spec.give_up):
            verdict, reason = await self._connect()
        seconds = trio.current_time() - began
        if verdict is ProbeVerdict.RIGHT and seconds > self._spec.budget:
            verdict, reason = (
                ProbeVerdict.SLOW,
                f"connected after {seconds:.3g} s, over the {self._spec.budget} allowed",
            )
        return ProbeOutcome(verdict, f"TCP {self._target}: {reason}", seconds, "connected" if verdict.answered else "")

    async def _connect(self) -> tuple[ProbeVerdict, str]:
        try:
            stream = await trio.open_tcp_stream(self._target.host, self._target.port)
        except OSError as error:
            verdict = ProbeVerdict.SILENT if caused_by_worker(error) else ProbeVerdict.TIMED_OUT
            return verdict, describe_error(error, self._target)
        stream.socket.close()
        return ProbeVerdict.RIGHT, "connected"
