"""A fixture of the machine's tests: a made NVML in place of the driver's."""

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
    """cuda:0 is the second GPU."""
    made = Nvml()

    @contextmanager
    def started() -> Iterator[Nvml]:
        yield made

    monkeypatch.setattr(gpu, "nvml", started)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpu.gpus.cache_clear()
    yield made
    gpu.gpus.cache_clear()
