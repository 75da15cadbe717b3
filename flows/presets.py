"""The presets: a function per preset, which returns a `Study`. `burnish presets` shows the docstring's first line.

The presets of published studies stand in flows/studies.py, and take a scale.
"""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING

from flows import studies
from tasks.records import (
    Augment,
    Benchmark,
    Choice,
    Data,
    Model,
    Prune,
    Quantize,
    Range,
    Search,
    Select,
    Serve,
    Study,
    Train,
    Tune,
)

if TYPE_CHECKING:
    from collections.abc import Callable


INT8 = ("u8s8", "u8s8-corrected", "u8s8-corrected-reduced", "s8s8", "nncf-mixed", "nncf-openvino-mixed")
"""Int8 settings that are worth their time. On EfficientNet-Lite0 (375 images, fp32 top-1 0.875) u8s8 has 0.867, and
0.875 with corrected biases; without VNNI, 7-bit weights are needed. TensorRT makes engines of s8s8."""


def quickstart() -> Study:
    """scikit-learn's digits: LeNet-5 and a quarter-width ResNet-34, from training to the served winner, minutes on a
    CPU."""
    return Study(
        name="quickstart",
        data=Data(),
        models=(Model(name="lenet5"), Model(name="resnet34", width=16)),
        train=Train(epochs=14, patience=6, batch_size=48, learning_rate=0.07, label_smoothing=0.1),
        tune=Tune(
            trials=3,
            epochs=3,
            space={
                "learning_rate": Range(low=0.02, high=0.2, log=True),
                "label_smoothing": Choice(values=(0.0, 0.1)),
            },
        ),
        # A mirrored digit is no digit, so no policy flips images.
        augment=Augment(policies=("none", "crop")),
        prune=Prune(ratios=(0.25,), epochs=5),
        quantize=Quantize(settings=("u8s8-reduced", "u8s8", "s8s8"), calibration_images=128),
        # One process per candidate, and latency only: importing PyTorch anew in every round would take minutes.
        benchmark=Benchmark(batch_sizes=(1,), throughput=False, rounds=4, processes=1, min_seconds=0.15),
        serve=Serve(seconds=0.5),
    )


def cifar10_small() -> Study:
    """Quarter-width ResNet-34 on 10,000 + 2,000 images of CIFAR-10; set data.path to your own images."""
    return Study(
        name="cifar10-small",
        data=Data(path="uoft-cs/cifar10", train_limit=10_000, test_limit=2_000),
        models=(Model(name="resnet34", width=16),),
        train=Train(epochs=12, patience=6, learning_rate=0.1, precision="auto"),
        tune=Tune(
            trials=4,
            epochs=3,
            train_limit=2_000,
            space={
                "learning_rate": Range(low=0.03, high=0.4, log=True),
                "weight_decay": Range(low=1e-4, high=5e-3, log=True),
                "label_smoothing": Choice(values=(0.0, 0.1)),
            },
        ),
        augment=Augment(policies=("none", "crop_flip", "cutmix"), epochs=6, train_limit=4_000),
        prune=Prune(ratios=(0.25,), epochs=3),
        benchmark=Benchmark(batch_sizes=(1, 8, 32), rounds=5, minutes=10),
    )


REPAIRED = (
    "u8s8-mse-corrected",
    "u8s8-sequential",
    "u8s8-equalised-corrected",
    "u8s8-smooth50",
    "u8s8-smooth15",
    "nncf-performance",
)
"""Int8 settings that the search of `optimize` tries beside those of INT8."""


def optimize() -> Study:
    """The fastest form of a model that you have, at most half a point less accurate: set models and data.path (or use
    `burnish optimize`)."""
    return Study(
        name="optimize",
        # Most images judge the forms. The rest is for calibration and for choosing among forms.
        data=Data(test_fraction=0.75, validation_fraction=0.5),
        models=(Model(file="model.onnx"),),
        train=Train(epochs=0),
        tune=Tune(trials=0),
        augment=Augment(policies=()),
        prune=Prune(ratios=()),
        quantize=Quantize(settings=INT8, dynamic=False, calibration_images=256, max_drop=0.005, only_faster=True),
        search=Search(trials=40, minutes=15, patience=12, settings=REPAIRED),
        benchmark=Benchmark(batch_sizes=(1,), throughput=False, rounds=5),
        serve=Serve(seconds=0),
        select=Select(max_drop=0.005),
    )


def presets() -> dict[str, Callable[..., Study]]:
    """Return all presets by name: every public function of this module and of `studies` that returns a `Study`."""
    return {
        name.replace("_", "-"): value
        for name, value in (globals() | vars(studies)).items()
        if callable(value)
        and getattr(value, "__annotations__", {}).get("return") == "Study"
        and not name.startswith("_")
    }


def listed(known: dict[str, Callable[..., Study]], width: int | None) -> str:
    """Return the names of presets and what they are, in one line per preset.

    In a terminal of `width` characters long lines are broken; None stands for no terminal.
    """
    longest = max(map(len, known))
    lines = [f"{name:<{longest}}  {(preset.__doc__ or '').strip().splitlines()[0]}" for name, preset in known.items()]
    if width is None:
        return "\n".join(lines)
    folded = (
        textwrap.fill(line, width, subsequent_indent=" " * (longest + 2), break_on_hyphens=False) for line in lines
    )
    return "\n".join(folded)


def scaled(preset: str) -> bool:
    """Return whether a preset has the scales of `studies.SCALES`."""
    return "scale" in inspect.signature(presets()[preset]).parameters
