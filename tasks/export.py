"""Export: trained weights as ONNX and as TorchScript, each checked against its PyTorch parent on real images."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.forms.onnx import quiet, write_onnx
from tasks.forms.parity import BATCH, compared_images, parity
from tasks.records import Export, Forms, Prepared, Variant
from tasks.runtimes import eager, onnxruntime, torchscript
from tasks.tables.variants import failure, variant_row

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from tasks.caching.work import Work


def _torchscript(model: nn.Module, example: Tensor, settings: Export, about: dict[str, str], folder: Path) -> Path:
    """Write TorchScript, traced and frozen; `about` goes into the archive's extra files."""
    import torch

    path = folder / "model.ts"
    with torch.no_grad():
        # the comparison with the parent checks it
        traced = torch.jit.trace(model, example, check_trace=False)
        # given the path, PyTorch ends the whole process where a write fails
        with path.open("wb") as file:
            torch.jit.save(torch.jit.freeze(traced), file, _extra_files=about)
    return path


FORMS = {"onnx": (write_onnx, onnxruntime), "torchscript": (_torchscript, torchscript)}
"""Format -> what writes it and the runtime that it is checked in."""


def export(work: Work, data: Prepared, parent: Variant, settings: Export) -> Forms:
    """Make each of `settings.formats` of a variant; a format that fails is a failed variant, and the others go on.

    A form takes "input", normalised float32 (batch, channels, height, width), and gives "logits"; metadata (ONNX) or
    extra files (TorchScript) have the class names and the mean and std to normalise with, as JSON.
    """
    import torch

    import models

    assert parent.artifact is not None
    path = work.store.get(parent.artifact)
    reference = eager.open(path, "cpu", BATCH, torch.get_num_threads())
    images = compared_images(work, data, settings.images)
    shape = (data.channels, data.image_size, data.image_size)
    told = {"classes": data.classes, "mean": data.mean, "std": data.std, "image_shape": shape}
    about = {key: json.dumps(value) for key, value in told.items()}
    variants, rows = [], []
    for done, form in enumerate(settings.formats, 1):
        made: dict[str, Any] = {
            "name": f"{parent.name}/{form}",
            "model": parent.model,
            "stage": "export",
            "format": form,
            "parent": parent.name,
            "parameters": parent.parameters,
            "macs": parent.macs,
        }
        measured: dict[str, Any] = {"tolerance": settings.tolerance}
        started = time.perf_counter()
        try:
            write, runtime = FORMS[form]
            with work.store.temporary() as folder:
                (folder / form).mkdir()
                with quiet(work.log):
                    file = write(models.load(path), torch.from_numpy(images[:2]), settings, about, folder / form)
                    session = runtime.open(file, "cpu", BATCH, torch.get_num_threads())
                    difference = parity(reference, session, images)
                    session.close()
                if not difference <= settings.tolerance:
                    raise ValueError(
                        f"logits differ from {parent.name} by {difference:.3g} of its largest one on "
                        f"{len(images)} validation images; tolerance {settings.tolerance:g}"
                    )
                made |= {"artifact": work.store.put(file, form, "fp32"), "benchmark": True}
            measured["parity"] = difference
        except Exception as error:
            # whatever an exporter raises: one form less, and its row says why
            made |= {"status": "failed", "error": failure(error)}
            work.log.exception("%s failed", made["name"])
        else:
            work.progress(
                done,
                len(settings.formats),
                f"{made['name']}: {time.perf_counter() - started:.1f} s, relative difference {difference:.2g}",
            )
        variant = Variant(**made)
        variants.append(variant)
        rows.append(variant_row(variant, **measured))
    return Forms(variants=tuple(variants), tables={"variants": work.rows("variants", rows)})


def _family(inputs: dict[str, Any]) -> tuple[str, ...]:
    """The module that builds the model: weights name their model, so no import tells of it."""
    import models

    # a label: name[-w<width>][-pretrained]
    return (models.module(inputs["parent"].model.partition("-")[0]),)


export_task = stage(
    lambda inputs: f"export/{inputs['parent'].name}",
    libraries=("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy"),
    modules=_family,
)(export)
