"""Quantize: int8 forms of an ONNX file by onnxruntime.quantization; every setting's accuracy and latency is measured.

Which setting is fast and accurate depends on the model, on ONNX Runtime and on the machine, so that it is searched.
Found on a CPU with AVX-512 VNNI (ONNX Runtime 1.31, quarter-width ResNet-34 at 32×32, batch 1), as multiples of fp32's
latency: the u8s8 forms 0.2 to 0.4, s8s8 (signed activations) 1.2 to 1.7, dynamic int8 of convolutions 1.4 to 1.7 with
unsigned weights and 4 to 5 with signed ones, dynamic int8 of matrix products alone 1.0. At 8×8 none beats fp32.
"""

from __future__ import annotations

import gc
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import metrics
from tasks.caching import stage
from tasks.datasets import load_arrays
from tasks.locks import locked
from tasks.machine import cores, fingerprint
from tasks.measure import measure, warm_up
from tasks.pixels import normalise
from tasks.records import Forms, Prepared, Quantize, Variant
from tasks.runtimes import onnxruntime as runtime
from tasks.space import watched
from tasks.variants import failure, variant_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.runtimes import Session
    from tasks.work import Work

BATCH = 32
VALIDATION_IMAGES = 2000
"""Most validation images that a form is scored on."""
ROUNDS = 7
"""Visits to each candidate in the latency search."""
TIE = 0.05
"""Latencies of the search this close are equal: of such forms the more accurate one is taken."""
LINEAR = ["MatMul", "Gemm"]


def static_arguments(setting: str) -> dict[str, Any]:
    """Arguments of `quantize_static` for one of records.QUANTIZE_SETTINGS: Q/DQ, int8 weights per channel, and

    - u8s8: uint8 activations, ranges from smallest and largest value, every operator that has an int8 form; a batch
    norm
      that could not be folded into a convolution (DenseNet) has none, its weights would only lose accuracy
    - u8s8-reduced: 7-bit weights; without VNNI the sums of 8-bit products saturate at 16 bits
    - u8s8-core: convolutions and matrix products alone
    - u8s8-percentile: ranges that hold 99.99 % of the values (Wu et al. 2020, Integer quantization for deep learning)
    - s8s8: symmetric int8 activations and no quantized bias, the form that TensorRT parses
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    operators = sorted({*QDQRegistry, *QLinearOpsRegistry} - {"BatchNormalization"})
    own: dict[str, dict[str, Any]] = {
        "u8s8": {},
        "u8s8-reduced": {"reduce_range": True},
        "u8s8-core": {"op_types_to_quantize": ["Conv", *LINEAR]},
        "u8s8-percentile": {
            "calibrate_method": CalibrationMethod.Percentile,
            "extra_options": {"CalibPercentile": 99.99},
        },
        "s8s8": {
            "activation_type": QuantType.QInt8,
            "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        },
    }
    common = {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "op_types_to_quantize": operators,
    }
    return common | own[setting]


def dynamic_arguments(setting: str) -> dict[str, Any]:
    """Arguments of `quantize_dynamic`: dynamic (convolutions too) or dynamic-linear (matrix products alone).

    ONNX Runtime's integer convolution is about three times as fast with unsigned weights as with signed ones.
    """
    from onnxruntime.quantization import QuantType

    return {
        "dynamic": {"weight_type": QuantType.QUInt8, "op_types_to_quantize": ["Conv", *LINEAR]},
        "dynamic-linear": {"weight_type": QuantType.QInt8, "reduce_range": True, "op_types_to_quantize": LINEAR},
    }[setting]


DYNAMIC = ("dynamic", "dynamic-linear")


class Batches:
    """Normalised images of some rows, one batch in memory; also a CalibrationDataReader of onnxruntime.quantization."""

    def __init__(self, data: Prepared, images: np.ndarray, rows: np.ndarray) -> None:
        self.data, self.images = data, images
        self.rows = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        self.waiting = iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Let `get_next` give the batches of these numbers."""
        self.waiting = iter(self.rows[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Input name -> the next batch, or None."""
        return next(({"input": self.read(rows)} for rows in self.waiting), None)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Float32 (batch, channels, height, width)."""
        return normalise(self.images[rows], self.data.mean, self.data.std)


def sample(labels: np.ndarray, splits: np.ndarray, split: int, count: int) -> np.ndarray:
    """At most `count` rows of a split, ascending: each class has its share, evenly spread over the class's rows."""
    rows = np.flatnonzero(splits == split)
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)])


def _never(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime.quantization: it prints, and logs through the root logger, which gets a handler by that."""
    from onnxruntime.quantization import calibrate

    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    # of what is logged through it itself; Prefect gives it a handler, too
    root.addFilter(_never)
    calibrate.print = lambda *words: None  # type: ignore[attr-defined]  # a module's own `print` goes before the built-in
    try:
        yield
    finally:
        del calibrate.print  # type: ignore[attr-defined]
        root.removeHandler(nowhere)
        root.removeFilter(_never)


def _make(setting: str, fp32: Path, folder: Path, calibration: Batches) -> Path:
    """Write one int8 form of the pre-processed file in `folder` (made from `fp32` when it is first asked for)."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, path = folder / "preprocessed.onnx", folder / f"{setting}.onnx"
    if not source.exists():
        # The exporter has inferred the shapes; symbolic inference leaves a file in the current folder where it fails.
        quant_pre_process(fp32, source, skip_symbolic_shape=True)
        model = onnx.load(source)
        # The exporter also lists the shapes of weights; they are stale when quantize_dynamic has transposed one.
        weights = {tensor.name for tensor in model.graph.initializer}
        activations = [info for info in model.graph.value_info if info.name not in weights]
        del model.graph.value_info[:]
        model.graph.value_info.extend(activations)
        onnx.save(model, source)
    if setting in DYNAMIC:
        quantization.quantize_dynamic(source, path, **dynamic_arguments(setting))
    else:
        arguments = static_arguments(setting)
        # A stride of one: ranges are merged batch by batch. By default percentiles keep the activations of all batches.
        arguments["extra_options"] = {**arguments.get("extra_options", {}), "CalibStridedMinMax": 1}
        quantization.quantize_static(source, path, calibration, **arguments)
    model = onnx.load(path)
    if not any("QuantizeLinear" in node.op_type for node in model.graph.node):
        raise ValueError("nothing was quantized: the graph has no operator that the setting quantizes")
    about = {entry.key: entry.value for entry in onnx.load(fp32, load_external_data=False).metadata_props}
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | about)
    onnx.save(model, path)
    return path


@dataclass
class Form:
    """A candidate of the search: the parent or an int8 form."""

    setting: str
    session: Session
    logits: np.ndarray
    top1: float
    macro_f1: float
    latency_ms: float = 0.0


def scored(setting: str, path: Path, batches: Batches, labels: np.ndarray) -> Form:
    """Open a form on the CPU and score it."""
    session = runtime.open(path, "cpu", BATCH, cores())
    logits = np.concatenate([session.run(batches.read(rows)) for rows in batches.rows])
    predicted = metrics.predictions(logits)
    return Form(setting, session, logits, metrics.top1(logits, labels), metrics.macro_f1(labels, predicted))


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
    images, labels, splits = load_arrays(work.store, data)
    chosen_rows = sample(labels, splits, 1, VALIDATION_IMAGES)
    validation, truth = Batches(data, images, chosen_rows), labels[chosen_rows]
    calibration = Batches(data, images, sample(labels, splits, 0, settings.calibration_images))
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
