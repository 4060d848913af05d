"""The machine's NVIDIA GPUs, through NVML, where there are any. Needs ``rumormill[gpu]``.

NVML sees all GPUs of the machine, whatever ``CUDA_VISIBLE_DEVICES`` says. Its calls go to the driver and may hang with
it. So they run in a thread: a driver that hangs holds up no heartbeat, and the figures are then unknown. They decide
nothing; utilization for routing comes from the engine (docs/run/headroom.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import trio

from rumormill.discovery.commands import GpuRow

READ_SECONDS: Final = 5.0
"""Between two readings. Larger: older figures; smaller: more calls to the driver."""
CALL_TIMEOUT: Final = 5.0
"""Seconds after which a call to the driver is given up. Another one is made once it has come back."""
LIBRARY: Final = "pynvml"
"""The module of nvidia-ml-py."""
DRIVER: Final = Path("/dev/nvidiactl")
"""There, if NVIDIA's driver is loaded."""
MAX_GPUS: Final = 64


class GpuWatch:
    """Reads the GPUs forever, while :meth:`run` runs."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """``say`` is told once why nothing is read, if something could be."""
        self._say = say
        self.latest: Sequence[GpuRow] = ()
        """What was read last; empty if there is nothing, or it cannot be read now."""

    async def run(self) -> None:
        if find_spec(LIBRARY) is None:
            if DRIVER.exists():
                self._say("the GPUs are not read: pip install 'rumormill[gpu]'")
            return
        nvml = importlib.import_module(LIBRARY)
        try:
            await self._read_forever(nvml)
        except nvml.NVMLError as error:
            self.latest = ()
            self._say(f"the GPUs are not read: {error}")

    async def _read_forever(self, nvml: Any) -> None:
        await trio.to_thread.run_sync(nvml.nvmlInit, abandon_on_cancel=True)
        while True:
            with trio.move_on_after(CALL_TIMEOUT) as patience:
                self.latest = await trio.to_thread.run_sync(read_gpus, nvml, abandon_on_cancel=True)
            if patience.cancelled_caught:
                self.latest = ()
            await trio.sleep(READ_SECONDS)


def read_gpus(nvml: Any) -> list[GpuRow]:
    """What NVML says now. Raises its NVMLError if it says nothing at all."""
    return [_read_gpu(nvml, index) for index in range(min(nvml.nvmlDeviceGetCount(), MAX_GPUS))]


def _read_gpu(nvml: Any, index: int) -> GpuRow:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    rates = _known(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _known(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    return gpu_row(index, name, rates, memory)


def _known(nvml: Any, ask: Callable[[Any], Any], handle: Any) -> Any | None:
    """A figure, or None: a GPU that is divided (MIG), and some small ones, do not have all."""
    try:
        return ask(handle)
    except nvml.NVMLError:
        return None


def gpu_row(index: int, name: str | bytes, rates: Any | None, memory: Any | None) -> GpuRow:
    """NVML's structures as a row: ``nvmlUtilization_t`` has per cents, ``nvmlMemory_t`` bytes. Older versions of the
    library give the name as bytes."""
    return GpuRow(
        index=index,
        name=name.decode(errors="replace") if isinstance(name, bytes) else name,
        utilization=None if rates is None else rates.gpu / 100,
        memory_used=None if memory is None else memory.used,
        memory_total=None if memory is None else memory.total,
    )
