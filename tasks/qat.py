"""Qat: quantization-aware training. Weights are fine-tuned with the rounding of int8 in place, then written as ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.datasets._arrays import load_arrays
from tasks.forms.fakequant import fake_quantized, integer
from tasks.forms.int8 import VALIDATION_IMAGES, Batches, sample, scored
from tasks.forms.onnx import quiet, write_onnx
from tasks.forms.parity import compared_images, parity
from tasks.records import Export, Forms, Model, Prepared, Qat, Trained, Variant
from tasks.runtimes import _torch
from tasks.runtimes import onnxruntime as runtime
from tasks.tables.variants import failure, variant_row
from tasks.training.fit import train_best
from tasks.training.state import Training
from tasks.training.weights import LIBRARIES, family

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from tasks.caching.work import Work
    from tasks.records import Train


SYMMETRIC = "s8s8"
"""For TensorRT: ONNX Runtime executes a convolution in int8 only where the range of what comes out after ReLU begins at
0, so this form would be timed in fp32."""


def _tuning(train: Train, settings: Qat) -> Train:
    """How it is trained: as the weights were, but shorter, in fp32 and in this process.

    The graph is torch.export's, in which there are no layers to compile, recompute, hand to Muon, or send to other
    processes.
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


def _write(model: nn.Module, data: Prepared, fp32: Path, export: Export, work: Work, folder: Path) -> Path:
    """Write a fake-quantized model as ONNX, with what the fp32 file tells of its classes and images."""
    import onnx
    import torch

    about = {entry.key: entry.value for entry in onnx.load(fp32, load_external_data=False).metadata_props}
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    with quiet(work.log):
        path = write_onnx(integer(model), example, export, about, folder)
    file = runtime.model_file(path)
    made = onnx.load(file, load_external_data=False)
    if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
        raise ValueError("nothing was quantized: the graph has no convolution and no linear layer")
    return path


def qat(
    work: Work, model: Model, data: Prepared, trained: Trained, fp32: Variant, export: Export, settings: Qat
) -> Forms:
    """Fine-tune trained weights with fake quantization and write each of `settings.settings` as ONNX with Q/DQ.

    A form is compared in ONNX Runtime with its fake-quantized parent on real images, and scored on validation images as
    those of the quantize stage are. One that fails is a failed variant, and the others go on.

    Parameters
    ----------
    trained : the weights, and how they were trained
    fp32 : their ONNX form, whose children the made ones are
    """
    import torch

    import models

    assert trained.variant.artifact is not None and fp32.artifact is not None, fp32.name
    source = work.store.get(trained.variant.artifact)
    arrays = load_arrays(work.store, data)
    rows = sample(arrays, "validation", VALIDATION_IMAGES)
    validation, compared = Batches(data, arrays.images, rows), compared_images(work, data, export.images)
    tuning = _tuning(trained.train, settings)
    runtime.load_library("cpu")
    variants, told, epochs = [], [], []
    for number, setting in enumerate(settings.settings):
        part = work.part(number / len(settings.settings), (number + 1) / len(settings.settings))
        made: dict[str, Any] = {
            "name": f"{fp32.name}/int8-qat-{setting}",
            "model": fp32.model,
            "stage": "qat",
            "format": "onnx",
            "parent": fp32.name,
            "precision": "int8",
            "setting": f"qat-{setting}",
            "parameters": fp32.parameters,
            "macs": fp32.macs,
        }
        measured: dict[str, Any] = {"tolerance": settings.tolerance}
        try:
            torch.manual_seed(tuning.seeds[0])
            example = torch.from_numpy(compared[:2])
            simulated = fake_quantized(models.load(source), example, setting)
            training = Training(
                work=part,
                architecture=models.architecture(source),
                data=data,
                settings=tuning,
                model_label=model.label,
                variant=made["name"],
                stage="qat",
            )
            epochs += train_best(training, simulated).epochs
            simulated.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
            with work.store.temporary() as folder:
                (folder / "onnx").mkdir()
                path = _write(
                    simulated, data, runtime.model_file(work.store.get(fp32.artifact)), export, work, folder / "onnx"
                )
                form = scored(setting, path, validation, arrays.labels[rows])
                measured["parity"] = parity(_torch.Session(simulated, "fake quantization"), form.session, compared)
                form.session.close()
                if not measured["parity"] <= settings.tolerance:
                    raise ValueError(
                        f"logits differ from the fake-quantized model's by {measured.pop('parity'):.3g} of its "
                        f"largest one; qat.tolerance is {settings.tolerance:g}"
                    )
                made |= {"artifact": work.store.put(path, "onnx", "int8"), "benchmark": setting != SYMMETRIC}
            measured |= {"validation_top1": form.top1, "validation_macro_f1": form.macro_f1}
            work.log.info(
                "%s: top-1 %.4f, macro F1 %.4f on %d validation images; logits differ from the fake-quantized "
                "model's by %.2g",
                made["name"],
                form.top1,
                form.macro_f1,
                len(rows),
                measured["parity"],
            )
        except Exception as error:
            # torchao's, the exporter's, the runtime's: one form less, and its row says why
            made |= {"status": "failed", "error": failure(error)}
            work.log.exception("%s failed", made["name"])
        variants.append(Variant(**made))
        told.append(variant_row(variants[-1], **measured))
    tables = {"variants": work.rows("variants", told)}
    return Forms(variants=tuple(variants), tables=tables | ({"epochs": work.rows("epochs", epochs)} if epochs else {}))


qat_task = stage(
    lambda inputs: f"qat/{inputs['fp32'].name}",
    libraries=(*LIBRARIES, "torchao", "onnx", "onnxscript", "onnxruntime"),
    modules=family,
)(qat)
