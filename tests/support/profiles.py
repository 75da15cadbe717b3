"""Profiles of one small ResNet, and what they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.profiling.profile import Profile, profile

RESNET: dict[str, Any] = {"name": "resnet34", "num_classes": 10, "in_channels": 1, "image_size": 8, "width": 16}


INPUTS = np.random.default_rng(0).standard_normal((2, 1, 8, 8), np.float32)


RUNTIMES = {"eager": "safetensors", "torchscript": "torchscript", "onnxruntime": "onnx", "openvino": "onnx"}


RUN = "small-20260101-000000-abcdef"


# of a ResNet-34
CONVOLUTIONS = 36


def profile_of(files: dict[str, Path], runtime: str, folder: Path, **others: Any) -> Profile:
    form = RUNTIMES.get(runtime, "safetensors")
    return profile(files[form], form, runtime, "cpu", 1, INPUTS, folder / "profile", **{"queries": 20, **others})


def convolution_rows(found: Profile) -> list[dict[str, Any]]:
    return [row for row in found.operators if "conv" in row["type"].lower() and row["kind"] == "compute"]
