"""Quantize: int8 forms of an ONNX file by onnxruntime.quantization, in several settings whose accuracy and latency are
measured.

Which setting is fast and accurate depends on the model, on ONNX Runtime and on the machine, so that it is searched for.
Measured on a CPU with AVX-512 VNNI (ONNX Runtime 1.31, quarter-width ResNet-34 at 32×32, batch 1), as multiples of the
latency of fp32: the u8s8 settings 0.2 to 0.4, s8s8 (signed activations) 1.2 to 1.7, dynamic int8 of convolutions 1.4 to
1.7 with unsigned weights and 4 to 5 with signed ones, dynamic int8 of matrix products alone 1.0. At 8×8, none is faster
than fp32.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.caching.stage import stage
from tasks.datasets._arrays import load_arrays
from tasks.forms.int8 import DYNAMIC, VALIDATION_IMAGES, Batches, Form, sample, score, write_int8
from tasks.machine import fingerprint
from tasks.machine.locks import locked
from tasks.machine.space import watched
from tasks.measure.clock import measure, warm_up
from tasks.records import Forms, Prepared, Quantize, Variant
from tasks.runtimes import onnxruntime as runtime
from tasks.tables.variants import failure, variant_row

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.caching.work import Work

ROUNDS = 7
"""Times that each form is measured for its latency."""
TIE = 0.05
"""Forms whose latency is within this share of the fastest one's count as equally fast: the most accurate is chosen."""


def quantize(work: Work, data: Prepared, parent: Variant, settings: Quantize) -> Forms:
    """Make the int8 forms of an fp32 ONNX form. One static and one dynamic form are benchmarked (see `choose`).

    Forms are calibrated on training images and scored on validation images. A setting that fails becomes a failed
    variant.
    """
    assert parent.artifact is not None, parent.name
    arrays = load_arrays(work.store, data)
    rows = sample(arrays, "validation", VALIDATION_IMAGES)
    validation = Batches(data, arrays.images, rows)
    calibration = Batches(data, arrays.images, sample(arrays, "train", settings.calibration_images))
    fp32 = runtime.model_file(work.store.get(parent.artifact))
    runtime.load_library("cpu")
    with work.store.temporary() as folder:
        reference = score("fp32", fp32, validation, arrays.labels[rows])
        search = _Search(work=work, parent=parent, settings=settings, folder=folder, reference=reference)
        search.make(fp32, calibration, validation, arrays.labels[rows])
        search.time(validation.read(rows[:1]), len(rows))
        chosen = search.chosen()
        described = [search.describe(setting, setting in chosen) for setting in search.names]
        reference.session.close()
    return Forms(
        variants=tuple(variant for variant, _ in described),
        tables={"variants": work.rows("variants", [row for _, row in described])},
    )


@dataclass(kw_only=True)
class _Search:
    """The search for the settings whose forms are benchmarked."""

    work: Work
    parent: Variant
    """The variant of the fp32 form."""
    settings: Quantize
    folder: Path
    """The folder with the files of the forms."""
    reference: Form
    """The fp32 form, which the int8 forms are compared with."""
    forms: dict[str, Form] = field(default_factory=dict)
    """The int8 forms by setting."""
    errors: dict[str, str] = field(default_factory=dict)
    """Why a setting has no form, by setting."""

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that are tried."""
        return (*self.settings.settings, *(DYNAMIC if self.settings.dynamic else ()))

    def make(self, fp32: Path, calibration: Batches, validation: Batches, labels: np.ndarray) -> None:
        """Write and score a form in every setting."""
        for done, setting in enumerate(self.names, 1):
            name = f"{self.parent.name}/int8-{setting}"
            try:
                with watched(self.folder):
                    path = write_int8(setting, fp32, self.folder, calibration)
                self.forms[setting] = score(setting, path, validation, labels)
            except Exception as error:
                # The quantizer and the runtime raise whatever they like. The other settings are still tried.
                self.errors[setting] = failure(error)
                self.work.log.warning("%s: %s", name, self.errors[setting])
            self.work.progress(done, len(self.names), name)

    def time(self, image: np.ndarray, validation_images: int) -> None:
        """Measure the latency of all forms, while nothing else is measured on the CPU."""
        with locked({"cpu"}, self.work.log):
            _time([self.reference, *self.forms.values()], image)
        self.work.log.info(
            "%s: top-1 %.4f of %d validation images, %.3f ms",
            self.parent.name,
            self.reference.top1,
            validation_images,
            self.reference.latency_ms,
        )

    def chosen(self) -> set[str]:
        """Return the settings whose forms are benchmarked: the best static and the best dynamic one."""
        settings = set()
        for kind in (self.settings.settings, DYNAMIC):
            forms = [form for setting, form in self.forms.items() if setting in kind]
            if not forms:
                continue
            best, reason = choose(forms, self.reference.top1, self.settings.max_drop)
            settings.add(best.setting)
            self.work.log.info(
                "%s: int8 setting %s chosen (validation top-1 %.4f, %.3f ms, %.2f times as fast as fp32): %s",
                self.parent.name,
                best.setting,
                best.top1,
                best.latency_ms,
                self.reference.latency_ms / best.latency_ms,
                reason,
            )
        return settings

    def describe(self, setting: str, benchmark: bool) -> tuple[Variant, dict[str, object]]:
        """Store the form of a setting; return its variant and its row of the table `variants`."""
        identity: dict[str, Any] = {
            "name": f"{self.parent.name}/int8-{setting}",
            "model": self.parent.model,
            "stage": "quantize",
            "format": "onnx",
            "parent": self.parent.name,
            "precision": "int8",
            "setting": setting,
            "parameters": self.parent.parameters,
            "macs": self.parent.macs,
            "benchmark": benchmark,
        }
        if setting in self.errors:
            variant = Variant(**identity, status="failed", error=self.errors[setting])
            return variant, variant_row(variant)
        form = self.forms[setting]
        form.session.close()
        artifact = self.work.store.put(self.folder / f"{setting}.onnx", "onnx", "int8")
        variant = Variant(**identity, artifact=artifact)
        difference = abs(form.logits - self.reference.logits).max() / abs(self.reference.logits).max()
        return variant, variant_row(
            variant,
            validation_top1=form.top1,
            validation_macro_f1=form.macro_f1,
            search_latency_ms=form.latency_ms,
            parity=float(difference),
        )


def _time(forms: list[Form], image: np.ndarray) -> None:
    """Set each form's latency: the median of a few measurements with a batch of one image.

    The forms are measured by turns, so that a disturbance hits all alike.
    """
    medians: dict[str, list[float]] = {form.setting: [] for form in forms}
    # `measure` collects garbage first, which takes half a second among PyTorch's objects unless they are frozen.
    gc.freeze()
    try:
        for _ in range(ROUNDS):
            for form in forms:
                call = partial(form.session.run, image)
                warm_up(call, 0.02)
                medians[form.setting].append(float(np.median(measure(call, 0.03, 10))))
    finally:
        gc.unfreeze()
    for form in forms:
        form.latency_ms = float(np.median(medians[form.setting])) / 1e6


def choose(forms: list[Form], reference: float, max_drop: float) -> tuple[Form, str]:
    """Return the form that is benchmarked, and the reason: it is the fastest whose drop is allowed.

    Of forms that are equally fast (within 5 % of the fastest), the most accurate is chosen. Where no form's drop is
    allowed, it is the most accurate of all. `reference` is the top-1 of fp32.
    """
    # A drop of exactly max_drop is allowed, whatever the rounding of floats makes of it.
    allowed = [form for form in forms if reference - form.top1 <= max_drop + 1e-9]
    if not allowed:
        best = max(forms, key=lambda form: (form.top1, -form.latency_ms))
        return best, f"no setting is within {max_drop:g} of top-1; most accurate"
    limit = min(form.latency_ms for form in allowed) * (1 + TIE)
    tied = [form for form in allowed if form.latency_ms <= limit]
    best = max(tied, key=lambda form: (form.top1, form.macro_f1, -form.latency_ms))
    reason = f"fastest within {max_drop:g} of top-1"
    if len(tied) > 1:
        settings = ", ".join(form.setting for form in tied)
        reason = f"{reason}; of {len(tied)} settings equally fast ({settings}) the most accurate"
    return best, reason


quantize_task = stage(
    lambda inputs: f"quantize/{inputs['parent'].name}",
    libraries=("onnx", "onnxruntime", "numpy"),
    # The machine decides the latencies, by which settings are chosen.
    extra=lambda inputs: {"machine": fingerprint()},
    devices=lambda inputs: ("cpu",),
)(quantize)
