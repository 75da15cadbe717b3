"""Quantize: int8 forms of an ONNX file by onnxruntime.quantization; every setting's accuracy and latency is measured.

Which setting is fast and accurate depends on the model, on ONNX Runtime and on the machine, so that it is searched.
Found on a CPU with AVX-512 VNNI (ONNX Runtime 1.31, quarter-width ResNet-34 at 32×32, batch 1), as multiples of fp32's
latency: the u8s8 forms 0.2 to 0.4, s8s8 (signed activations) 1.2 to 1.7, dynamic int8 of convolutions 1.4 to 1.7 with
unsigned weights and 4 to 5 with signed ones, dynamic int8 of matrix products alone 1.0. At 8×8 none beats fp32.
"""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.caching.stage import stage
from tasks.datasets._arrays import load_arrays
from tasks.forms.int8 import DYNAMIC, VALIDATION_IMAGES, Batches, Form, _make, _quiet, sample, scored
from tasks.machine import fingerprint
from tasks.machine.locks import locked
from tasks.machine.space import watched
from tasks.measure.clock import measure, warm_up
from tasks.records import Forms, Prepared, Quantize, Variant
from tasks.runtimes import onnxruntime as runtime
from tasks.tables.variants import failure, variant_row

if TYPE_CHECKING:
    from tasks.caching.work import Work

ROUNDS = 7
"""Visits to each candidate in the latency search."""
TIE = 0.05
"""Latencies of the search this close are equal: of such forms the more accurate one is taken."""


def _time(forms: list[Form], image: np.ndarray) -> None:
    """Set each form's median batch-1 latency; the forms are visited in turn, so that drift hits all alike."""
    medians: dict[str, list[float]] = {form.setting: [] for form in forms}
    # each `measure` collects garbage first; half a second among PyTorch's objects
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
    """The form that goes on, and why: the fastest of those that lose at most `max_drop` of top-1 `reference`.

    Of latencies within 5 % of the fastest the more accurate form is taken; if no form is within `max_drop`, the most
    accurate of all.
    """
    # a drop of just max_drop is allowed
    within = [form for form in forms if reference - form.top1 <= max_drop + 1e-9]
    if not within:
        return max(
            forms, key=lambda f: (f.top1, -f.latency_ms)
        ), f"no setting is within {max_drop:g} of top-1; most accurate"
    limit = min(form.latency_ms for form in within) * (1 + TIE)
    tied = [form for form in within if form.latency_ms <= limit]
    why = f"fastest within {max_drop:g} of top-1"
    if len(tied) > 1:
        why = f"{why}; of {len(tied)} settings equally fast ({', '.join(f.setting for f in tied)}) the most accurate"
    return max(tied, key=lambda f: (f.top1, f.macro_f1, -f.latency_ms)), why


def quantize(work: Work, data: Prepared, parent: Variant, settings: Quantize) -> Forms:
    """Make the int8 forms of an fp32 ONNX form; one static and one dynamic form go on to the benchmark (see `choose`).

    Calibrated on training images, scored on validation images. A setting that fails is a failed variant.
    """
    assert parent.artifact is not None, parent.name
    arrays = load_arrays(work.store, data)
    chosen_rows = sample(arrays, "validation", VALIDATION_IMAGES)
    validation, truth = Batches(data, arrays.images, chosen_rows), arrays.labels[chosen_rows]
    calibration = Batches(data, arrays.images, sample(arrays, "train", settings.calibration_images))
    fp32 = runtime.model_file(work.store.get(parent.artifact))
    names = (*settings.settings, *(DYNAMIC if settings.dynamic else ()))
    errors: dict[str, str] = {}
    runtime.load_library("cpu")
    with work.store.temporary() as folder:
        reference = scored("fp32", fp32, validation, truth)
        forms: dict[str, Form] = {}
        for done, setting in enumerate(names, 1):
            try:
                with _quiet(), watched(folder):
                    path = _make(setting, fp32, folder, calibration)
                forms[setting] = scored(setting, path, validation, truth)
            except Exception as error:
                # whatever the quantizer or the runtime raises: one setting less, its row says why
                work.log.warning("%s/int8-%s: %s", parent.name, setting, failure(error))
                errors[setting] = failure(error)
            work.progress(done, len(names), f"{parent.name}/int8-{setting}")
        with locked({"cpu"}, work.log):
            _time([reference, *forms.values()], validation.read(chosen_rows[:1]))
        work.log.info(
            "%s: top-1 %.4f of %d validation images, %.3f ms",
            parent.name,
            reference.top1,
            len(truth),
            reference.latency_ms,
        )
        chosen = set()
        for kind in (settings.settings, DYNAMIC):
            if candidates := [form for name, form in forms.items() if name in kind]:
                best, why = choose(candidates, reference.top1, settings.max_drop)
                chosen.add(best.setting)
                work.log.info(
                    "%s: int8 setting %s chosen (validation top-1 %.4f, %.3f ms, %.2f times as fast as fp32): %s",
                    parent.name,
                    best.setting,
                    best.top1,
                    best.latency_ms,
                    reference.latency_ms / best.latency_ms,
                    why,
                )
        variants, rows = [], []
        for setting in names:
            made: dict[str, Any] = {
                "name": f"{parent.name}/int8-{setting}",
                "model": parent.model,
                "stage": "quantize",
                "format": "onnx",
                "parent": parent.name,
                "precision": "int8",
                "setting": setting,
                "parameters": parent.parameters,
                "macs": parent.macs,
                "benchmark": setting in chosen,
            }
            measured: dict[str, Any] = {}
            if setting in forms:
                form = forms[setting]
                form.session.close()
                made["artifact"] = work.store.put(folder / f"{setting}.onnx", "onnx", "int8")
                measured = {
                    "validation_top1": form.top1,
                    "validation_macro_f1": form.macro_f1,
                    "search_latency_ms": form.latency_ms,
                    "parity": float(abs(form.logits - reference.logits).max() / abs(reference.logits).max()),
                }
            else:
                made |= {"status": "failed", "error": errors[setting]}
            variants.append(Variant(**made))
            rows.append(variant_row(variants[-1], **measured))
        reference.session.close()
    return Forms(variants=tuple(variants), tables={"variants": work.rows("variants", rows)})


quantize_task = stage(
    lambda inputs: f"quantize/{inputs['parent'].name}",
    libraries=("onnx", "onnxruntime", "numpy"),
    # latency decides
    extra=lambda inputs: {"machine": fingerprint()},
    devices=lambda inputs: ("cpu",),
)(quantize)
