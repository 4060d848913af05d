"""Figures of GPUs where NVML has some, and peace where it has none."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest
import trio
from limits import LIVENESS_LIMIT

from rumormill.discovery.commands import GpuRow
from rumormill.sidecar import gpus
from rumormill.sidecar.gpus import DRIVER, GpuWatch, gpu_row, read_gpus


def utilization(gpu: int) -> pynvml.c_nvmlUtilization_t:
    return pynvml.c_nvmlUtilization_t(gpu=gpu, memory=31)


def memory(total: int, used: int) -> pynvml.c_nvmlMemory_t:
    return pynvml.c_nvmlMemory_t(total=total, free=total - used, used=used)


def test_the_structures_of_nvml_become_rows() -> None:
    """As an H100 and, as bytes, a T4 with an older library give them."""
    h100 = gpu_row(0, "NVIDIA H100 80GB HBM3", utilization(97), memory(85_520_809_984, 76_004_999_168))
    assert h100 == GpuRow(0, "NVIDIA H100 80GB HBM3", 0.97, 76_004_999_168, 85_520_809_984)
    t4 = gpu_row(1, b"Tesla T4", utilization(0), memory(16_106_127_360, 471_072_768))
    assert t4 == GpuRow(1, "Tesla T4", 0.0, 471_072_768, 16_106_127_360)


def test_what_a_divided_gpu_does_not_say_is_unknown_and_not_zero() -> None:
    def refuse(_handle: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    divided = SimpleNamespace(
        NVMLError=pynvml.NVMLError,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda _handle: "NVIDIA A100-SXM4-40GB",
        nvmlDeviceGetUtilizationRates=refuse,
        nvmlDeviceGetMemoryInfo=lambda _handle: memory(42_505_273_344, 5),
    )
    assert read_gpus(divided) == [GpuRow(0, "NVIDIA A100-SXM4-40GB", None, 5, 42_505_273_344)]


@pytest.mark.skipif(DRIVER.exists(), reason="this machine has NVIDIA's driver")
async def test_without_a_driver_the_real_library_is_asked_once_and_that_is_said_once() -> None:
    said: list[str] = []
    watch = GpuWatch(said.append)
    with trio.fail_after(LIVENESS_LIMIT):
        await watch.run()
    assert [text.partition(":")[0] for text in said] == ["the GPUs are not read"]
    assert not watch.latest


@pytest.mark.skipif(DRIVER.exists(), reason="this machine has NVIDIA's driver")
async def test_without_the_library_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "LIBRARY", "pynvml_that_nobody_installed")
    said: list[str] = []
    with trio.fail_after(LIVENESS_LIMIT):
        await GpuWatch(said.append).run()
    assert not said
