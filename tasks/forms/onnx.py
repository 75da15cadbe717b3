"""Write a PyTorch model as an ONNX file."""

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
"""Key in a node's metadata under which the exporter lists the modules that the node comes from."""


@contextmanager
def quiet(log: Logger) -> Iterator[None]:
    """Send what exporters print, and their deprecation warnings, to the log."""
    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            yield
    finally:
        for line in output.getvalue().splitlines():
            log.debug("%s", line)


def write_onnx(model: nn.Module, example: Tensor, settings: Export, about: dict[str, str], folder: Path) -> Path:
    """Write a model as ONNX into a folder, with the metadata `about`; return the file.

    Where the weights are above PyTorch's limit for one file (1.5 GB), they lie in files of their own, and the folder is
    returned.
    """
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
        # The modules' names stay, because profilers need them. Everything else goes: stack traces contain paths of this
        # machine, and are a large part of a small model's size.
        for name in set(node.metadata_props) - {SCOPES}:
            del node.metadata_props[name]
    path = folder / "model.onnx"
    program.save(path)
    # A full check includes shape inference in strict mode.
    onnx.checker.check_model(str(path), full_check=True)
    return path if len(list(folder.iterdir())) == 1 else folder
