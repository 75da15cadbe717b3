"""Qat: quantization-aware training. Fine-tune weights that are rounded as int8 will round them; write them as ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.datasets._arrays import load_arrays
from tasks.forms.fakequant import fake_quantized, int8_form
from tasks.forms.int8 import VALIDATION_IMAGES, Rows, classify, open_form, sample
from tasks.forms.onnx import quiet, write_onnx
from tasks.forms.parity import compared_images, parity
from tasks.measure import metrics
from tasks.records import Export, Forms, Model, Prepared, Qat, Trained, Variant
from tasks.runtimes import _torch
from tasks.runtimes import onnxruntime as runtime
from tasks.tables.variants import failure, variant_row
from tasks.training.fit import train_best
from tasks.training.state import Training
from tasks.training.weights import LIBRARIES, family

if TYPE_CHECKING:
    from pathlib import Path

    import numpy
    from torch import nn

    from tasks.caching.work import Work
    from tasks.records import Artifact, Train


SYMMETRIC = "s8s8"
"""The setting for TensorRT, whose form is not benchmarked. ONNX Runtime would time it in fp32: it runs a convolution in
int8 only where the range of the activations after ReLU begins at 0."""


def qat(
    work: Work, model: Model, data: Prepared, trained: Trained, fp32: Variant, export: Export, settings: Qat
) -> Forms:
    """Fine-tune trained weights with fake quantization, and write each of `settings.settings` as ONNX with Q/DQ.

    A form is compared in ONNX Runtime with the fake-quantized model on real images, and scored on validation images as
    the forms of the quantize stage are. One that fails becomes a failed variant.

    Parameters
    ----------
    trained
        The weights, and the settings that they were trained with.
    fp32
        The ONNX form of these weights, which becomes the parent of the int8 forms.
    """
    import models

    assert trained.variant.artifact is not None and fp32.artifact is not None, fp32.name
    arrays = load_arrays(work.store, data)
    rows = sample(arrays, "validation", VALIDATION_IMAGES)
    source = _Source(
        weights=work.store.get(trained.variant.artifact),
        fp32=fp32,
        export=export,
        settings=settings,
        validation=Rows(data, arrays.images, rows),
        labels=arrays.labels[rows],
        compared=compared_images(work, data, export.images),
    )
    runtime.load_library("cpu")
    forms: list[tuple[Variant, dict[str, object], list[dict[str, object]]]] = []
    for number, setting in enumerate(settings.settings):
        training = Training(
            work=work.part(number / len(settings.settings), (number + 1) / len(settings.settings)),
            architecture=models.architecture(source.weights),
            data=data,
            settings=_tuning(trained.train, settings),
            model_label=model.label,
            variant=f"{fp32.name}/int8-qat-{setting}",
            stage="qat",
        )
        forms.append(_form(training, source, setting))
    tables = {"variants": work.rows("variants", [row for _, row, _ in forms])}
    if epochs := [row for _, _, rows_of_form in forms for row in rows_of_form]:
        tables["epochs"] = work.rows("epochs", epochs)
    return Forms(variants=tuple(variant for variant, _, _ in forms), tables=tables)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What the forms of all settings are made from and compared with."""

    weights: Path
    """The file of the trained weights."""
    fp32: Variant
    """Their ONNX form."""
    export: Export
    settings: Qat
    validation: Rows
    """Validation images that the forms are scored on."""
    labels: numpy.ndarray
    """Their labels."""
    compared: numpy.ndarray
    """Normalised images that a form is compared with its parent on: float32, (images, channels, height, width)."""


def _tuning(train: Train, settings: Qat) -> Train:
    """Return the settings of the fine-tuning: those of the weights, but shorter, in fp32, and in this process.

    The fake-quantized model is a graph of torch.export. It has no layers that could be compiled, checkpointed, handed
    to Muon, or sent to other processes.
    """
    return train.model_copy(
        update={
            "epochs": settings.epochs,
            "patience": settings.epochs,
            "learning_rate": settings.learning_rate,
            "optimizer": "sgd",
            "precision": "fp32",
            "ema": None,
            "compile": False,
            "checkpointing": False,
            "processes": 1,
            "fused_pointwise": False,
            "seeds": train.seeds[:1],
        }
    )


def _form(
    training: Training, source: _Source, setting: str
) -> tuple[Variant, dict[str, object], list[dict[str, object]]]:
    """Make the form of one setting.

    Returns
    -------
    tuple of (Variant, dict, list of dict)
        The variant, its row of the table `variants`, and the rows of `epochs` of its training. Where anything failed,
        the variant and its row say why.
    """
    fp32 = source.fp32
    identity: dict[str, Any] = {
        "name": training.variant,
        "model": fp32.model,
        "stage": "qat",
        "format": "onnx",
        "parent": fp32.name,
        "precision": "int8",
        "setting": f"qat-{setting}",
        "parameters": fp32.parameters,
        "macs": fp32.macs,
    }
    tolerance = source.settings.tolerance
    epochs: list[dict[str, object]] = []
    try:
        simulated = _train(training, source, setting, epochs)
        artifact, measured = _write_and_compare(training, source, setting, simulated)
    except Exception as error:
        # torchao, the exporter and the runtime raise whatever they like. The other settings are still tried.
        variant = Variant(**identity, status="failed", error=failure(error))
        training.work.log.exception("%s failed", variant.name)
        return variant, variant_row(variant, tolerance=tolerance), epochs
    variant = Variant(**identity, artifact=artifact, benchmark=setting != SYMMETRIC)
    return variant, variant_row(variant, tolerance=tolerance, **measured), epochs


def _train(training: Training, source: _Source, setting: str, epochs: list[dict[str, object]]) -> nn.Module:
    """Return the fine-tuned model, which rounds as its int8 form will; add the rows of its training to `epochs`."""
    import torch

    import models

    torch.manual_seed(training.seed)
    example = torch.from_numpy(source.compared[:2])
    simulated = fake_quantized(models.load(source.weights), example, setting)
    epochs += train_best(training, simulated).epochs
    return simulated.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]


def _write_and_compare(
    training: Training, source: _Source, setting: str, simulated: nn.Module
) -> tuple[Artifact, dict[str, float]]:
    """Write, score and store the int8 form of a fake-quantized model.

    Returns
    -------
    tuple of (Artifact, dict)
        The stored file, and the columns of the table `variants` that were measured.
    """
    work = training.work
    with work.store.temporary() as temporary:
        folder = temporary / "onnx"
        folder.mkdir()
        path = _write(training, source, simulated, folder)
        session = open_form(path, "onnx")
        logits = classify(session, source.validation)
        difference = parity(_torch.Session(simulated, "fake quantization"), session, source.compared)
        session.close()
        if not difference <= source.settings.tolerance:
            raise ValueError(
                f"logits differ from the fake-quantized model's by {difference:.3g} of its largest one; "
                f"qat.tolerance is {source.settings.tolerance:g}"
            )
        artifact = work.store.put(path, "onnx", "int8")
    top1 = metrics.top1(logits, source.labels)
    macro_f1 = metrics.macro_f1(source.labels, metrics.predictions(logits))
    work.log.info(
        "%s: top-1 %.4f, macro F1 %.4f on %d validation images; logits differ from the fake-quantized model's by %.2g",
        training.variant,
        top1,
        macro_f1,
        len(source.labels),
        difference,
    )
    return artifact, {"parity": difference, "validation_top1": top1, "validation_macro_f1": macro_f1}


def _write(training: Training, source: _Source, simulated: nn.Module, folder: Path) -> Path:
    """Write a fake-quantized model as ONNX, with the fp32 file's metadata about classes and images."""
    import onnx
    import torch

    assert source.fp32.artifact is not None
    fp32 = runtime.model_file(training.work.store.get(source.fp32.artifact))
    about = {entry.key: entry.value for entry in onnx.load(fp32, load_external_data=False).metadata_props}
    data = training.data
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    with quiet(training.work.log):
        path = write_onnx(int8_form(simulated), example, source.export, about, folder)
    graph = onnx.load(runtime.model_file(path), load_external_data=False).graph
    if not any(node.op_type == "QuantizeLinear" for node in graph.node):
        raise ValueError("nothing was quantized: the graph has no convolution and no linear layer")
    return path


qat_task = stage(
    lambda inputs: f"qat/{inputs['fp32'].name}",
    libraries=(*LIBRARIES, "torchao", "onnx", "onnxscript", "onnxruntime"),
    modules=family,
)(qat)
