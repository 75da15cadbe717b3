"""Export: trained weights as ONNX and as TorchScript, each checked against its PyTorch parent on real images."""

from __future__ import annotations

import io
import json
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy

from tasks.caching import stage
from tasks.datasets import load_arrays
from tasks.pixels import normalise
from tasks.records import Export, Forms, Prepared, Variant
from tasks.runtimes import eager, onnxruntime, torchscript
from tasks.variants import failure, variant_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from logging import Logger
    from pathlib import Path

    from torch import Tensor, nn

    from tasks.runtimes import Session
    from tasks.work import Work

BATCH = 8
"""The larger batch size at which a form is compared; the smaller is 1, and tracing sees 2."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules that a node comes from."""


@contextmanager
def quiet(log: Logger) -> Iterator[None]:
    """Send what exporters print, and their deprecation warnings, to the log."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            yield
    finally:
        for line in said.getvalue().splitlines():
            log.debug("%s", line)


def write_onnx(model: nn.Module, example: Tensor, settings: Export, about: dict[str, str], folder: Path) -> Path:
    """Write ONNX: a file, or a folder of model and weights above PyTorch's limit for one file (1.5 GB)."""
    import onnx
    import torch

    program = torch.onnx.export(
        model,
        (example,),
        input_names=["input"],
        output_names=["logits"],
        opset_version=settings.opset,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(about)
    for node in program.model.graph.all_nodes():
        # Stack traces tell this machine's paths, and are a part of a small model's size; profilers need the modules'
        # names.
        for name in set(node.metadata_props) - {SCOPES}:
            del node.metadata_props[name]
    path = folder / "model.onnx"
    program.save(path)
    # full: with shape inference, in strict mode
    onnx.checker.check_model(str(path), full_check=True)
    return path if len(list(folder.iterdir())) == 1 else folder


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


def compared_images(work: Work, data: Prepared, count: int) -> numpy.ndarray:
    """Normalised validation images, evenly spread over their rows (a source may be sorted by class).

    Where all images are for testing, of those: what is compared is a form with its parent, and nothing is chosen by it.
    """
    images, _, splits = load_arrays(work.store, data)
    rows = numpy.flatnonzero(splits == (1 if data.validation_rows else 2))
    chosen = numpy.linspace(0, len(rows) - 1, max(BATCH, min(count, len(rows)))).astype(int)
    return normalise(images[rows[chosen]], data.mean, data.std)


def parity(parent: Session, form: Session, images: numpy.ndarray) -> float:
    """Largest difference of a logit from the parent's over the parent's largest logit, one by one and in batches of 8.

    Raises
    ------
    ValueError
        If the parent's logits are not finite, or all zero: then agreement proves nothing.
    """
    worst = 0.0
    for batch in (1, BATCH):
        chunks = [images[start : start + batch] for start in range(0, len(images), batch)]
        want = numpy.concatenate([parent.run(chunk) for chunk in chunks])
        got = numpy.concatenate([form.run(chunk) for chunk in chunks])
        if not numpy.isfinite(want).all() or not want.any():
            raise ValueError("the parent's logits are not finite or all zero; nothing can be compared")
        # keeps NaN
        worst = numpy.maximum(worst, abs(want - got).max() / abs(want).max())
    return float(worst)


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
