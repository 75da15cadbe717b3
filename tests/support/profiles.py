"""Profiles one small ResNet-34 in several runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.profiling.profile import Profile, profile

RESNET: dict[str, Any] = {"name": "resnet34", "num_classes": 10, "in_channels": 1, "image_size": 8, "width": 16}
INPUTS = np.random.default_rng(0).standard_normal((2, 1, 8, 8), np.float32)
RUNTIMES = {"eager": "safetensors", "torchscript": "torchscript", "onnxruntime": "onnx", "openvino": "onnx"}
"""Runtime -> format of the file that it executes."""
RUN = "small-20260101-000000-abcdef"
CONVOLUTIONS = 36
"""Number of convolutions in a ResNet-34."""


def profile_of(files: dict[str, Path], runtime: str, folder: Path, **others: Any) -> Profile:
    """Profile the file that `runtime` executes. `files` has a path per format; `others` are options of `profile`."""
    file_format = RUNTIMES.get(runtime, "safetensors")
    options = {"queries": 20, **others}
    return profile(files[file_format], file_format, runtime, "cpu", 1, INPUTS, folder / "profile", **options)


def convolution_rows(measured: Profile) -> list[dict[str, Any]]:
    """Return the rows of the operators that compute convolutions."""
    return [row for row in measured.operators if "conv" in row["type"].lower() and row["kind"] == "compute"]
