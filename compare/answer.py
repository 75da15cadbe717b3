"""burnish's own entry in the comparison."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from compare.entries import Entry
from tasks.quantize import quantize
from tasks.records import QUANTIZE_SETTINGS, Quantize

if TYPE_CHECKING:
    from compare.models import Given
    from tasks.caching.work import Work

MAX_DROP = 0.005
"""How much less accurate than the given file burnish's answer may be: half a point, as in `burnish optimize`."""


def burnish(work: Work, given: Given) -> list[Entry]:
    """Return the form that burnish chooses of the given file, in each runtime that executes it.

    The choice falls on the validation images. This calls the stage `quantize` alone; `burnish optimize` is to take its
    place as soon as it runs, with its winner and the winner's runtime.
    """
    settings = Quantize(
        settings=QUANTIZE_SETTINGS, dynamic=False, calibration_images=given.calibration_images, max_drop=MAX_DROP
    )
    started = time.perf_counter()
    forms = quantize(work, given.data, given.variant, settings)
    seconds = time.perf_counter() - started
    return [
        Entry(
            name=f"burnish/{variant.setting}",
            settings=f"`quantize` chose it of {len(forms.variants)} forms by validation images and latency",
            runtimes=("onnxruntime", "openvino"),
            path=work.store.get(variant.artifact),
            seconds=seconds,
        )
        for variant in forms.variants
        if variant.benchmark and variant.artifact is not None
    ]
