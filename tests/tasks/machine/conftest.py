"""A fixture that puts a simulated NVML in place of the driver's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tasks.machine import gpu
from tests.support.nvml import Nvml

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    """A simulated NVML with two GPUs, of which CUDA shows only the second, as cuda:0."""
    simulated = Nvml()

    @contextmanager
    def started() -> Iterator[Nvml]:
        yield simulated

    monkeypatch.setattr(gpu, "nvml", started)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpu.gpus.cache_clear()
    yield simulated
    gpu.gpus.cache_clear()
