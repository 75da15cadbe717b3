"""Export: write trained weights as ONNX and as TorchScript, and compare each with its PyTorch parent on real images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.forms import description
from tasks.forms.onnx import quiet, write_onnx
from tasks.forms.parity import BATCH, compared_images, parity
from tasks.records import Export, Forms, Prepared, Variant
from tasks.runtimes import eager, onnxruntime, torchscript
from tasks.tables.variants import failure, variant_row

if TYPE_CHECKING:
    from pathlib import Path

    import numpy
    from torch import Tensor, nn

    from tasks.caching.work import Work
    from tasks.records import Artifact
    from tasks.runtimes import Session


def export(work: Work, data: Prepared, parent: Variant, settings: Export) -> Forms:
    """Write a variant in each of `settings.formats`. A format that fails becomes a failed variant.

    A form takes `input`, normalised float32, (batch, channels, height, width), and returns `logits`. The metadata of an
    ONNX file, and the extra files of a TorchScript archive, have the names of the classes, and the mean and standard
    deviation for normalising, as JSON.
    """
    import torch

    assert parent.artifact is not None
    path = work.store.get(parent.artifact)
    source = _Source(
        variant=parent,
        path=path,
        session=eager.open(path, "cpu", BATCH, torch.get_num_threads()),
        images=compared_images(work, data, settings.images),
        about=description.entries_of(data),
    )
    variants: list[Variant] = []
    rows: list[dict[str, object]] = []
    for done, form in enumerate(settings.formats, 1):
        started = time.perf_counter()
        variant, row = _exported(work, source, settings, form)
        if variant.status == "ok":
            seconds = time.perf_counter() - started
            text = f"{variant.name}: {seconds:.1f} s, relative difference {row['parity']:.2g}"
            work.progress(done, len(settings.formats), text)
        variants.append(variant)
        rows.append(row)
    return Forms(variants=tuple(variants), tables={"variants": work.rows("variants", rows)})


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The variant that is exported."""

    variant: Variant
    path: Path
    """The file of its weights."""
    session: Session
    """It, opened in PyTorch, whose outputs are those to match."""
    images: numpy.ndarray
    """Normalised images that it is compared on: float32, (images, channels, height, width)."""
    about: dict[str, str]
    """Metadata about classes and images for the exported file: JSON by key."""


def _exported(work: Work, source: _Source, settings: Export, form: str) -> tuple[Variant, dict[str, Any]]:
    """Make one form; return its variant, which has failed where the exporter did, and its row of `variants`."""
    parent = source.variant
    identity: dict[str, Any] = {
        "name": f"{parent.name}/{form}",
        "model": parent.model,
        "stage": "export",
        "format": form,
        "parent": parent.name,
        "parameters": parent.parameters,
        "macs": parent.macs,
    }
    try:
        artifact, difference = _write_and_compare(work, source, settings, form)
    except Exception as error:
        # Exporters raise whatever they like. The others are still tried, and the row says what went wrong.
        variant = Variant(**identity, status="failed", error=failure(error))
        work.log.exception("%s failed", variant.name)
        return variant, variant_row(variant, tolerance=settings.tolerance)
    variant = Variant(**identity, artifact=artifact, benchmark=True)
    return variant, variant_row(variant, tolerance=settings.tolerance, parity=difference)


def _write_and_compare(work: Work, source: _Source, settings: Export, form: str) -> tuple[Artifact, float]:
    """Write one form, compare it with its parent, and store it; return the artifact and the largest difference."""
    import torch

    import models

    write, runtime = FORMS[form]
    with work.store.temporary() as temporary:
        folder = temporary / form
        folder.mkdir()
        with quiet(work.log):
            model = models.load(source.path)
            file = write(model, torch.from_numpy(source.images[:2]), settings, source.about, folder)
            session = runtime.open(file, "cpu", BATCH, torch.get_num_threads())
            difference = parity(source.session, session, source.images)
            session.close()
        if not difference <= settings.tolerance:
            raise ValueError(
                f"logits differ from {source.variant.name} by {difference:.3g} of its largest one on "
                f"{len(source.images)} validation images; tolerance {settings.tolerance:g}"
            )
        return work.store.put(file, form, "fp32"), difference


def _write_torchscript(
    model: nn.Module, example: Tensor, settings: Export, about: dict[str, str], folder: Path
) -> Path:
    """Write TorchScript, traced and frozen; `about` goes into the archive's extra files."""
    import torch

    path = folder / "model.ts"
    with torch.no_grad():
        # PyTorch's own check of the trace is left out, because the form is compared with its parent anyway.
        traced = torch.jit.trace(model, example, check_trace=False)
        # PyTorch gets an open file: given a path, it ends the whole process where a write fails.
        with path.open("wb") as file:
            torch.jit.save(torch.jit.freeze(traced), file, _extra_files=about)
    return path


FORMS = {"onnx": (write_onnx, onnxruntime), "torchscript": (_write_torchscript, torchscript)}
"""Format -> the function that writes it, and the runtime in which it is compared with its parent."""


def _family(inputs: dict[str, Any]) -> tuple[str, ...]:
    """Return the module that builds the model. The weights name their model, so that no import shows the module."""
    import models

    # A label is name[-w<width>][-pretrained].
    return (models.module(inputs["parent"].model.partition("-")[0]),)


export_task = stage(
    lambda inputs: f"export/{inputs['parent'].name}",
    libraries=("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy"),
    modules=_family,
)(export)
