"""A PyTorch model as an ONNX file."""

from __future__ import annotations

import io
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from tasks.records import Export

if TYPE_CHECKING:
    from collections.abc import Iterator
    from logging import Logger
    from pathlib import Path

    from torch import Tensor, nn


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
