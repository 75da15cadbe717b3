"""Find out what a file of PyTorch is without running it: TorchScript and its input's type, or why it cannot be run."""

from __future__ import annotations

import json
import shlex
import zipfile
from typing import TYPE_CHECKING

from tasks.datasets._filekinds import broken_zip

if TYPE_CHECKING:
    from pathlib import Path

PICKLE = b"\x80"
"""First byte of a pickle, which is also what torch.save wrote before PyTorch 1.6."""
TYPES = {"FloatStorage": "float32", "HalfStorage": "float16", "DoubleStorage": "float64", "BFloat16Storage": "bfloat16"}
"""PyTorch's name of a type of weights -> NumPy's name; the first that a file has is the type of its input."""


def input_type(path: Path) -> str:
    """Return NumPy's name of the type of the images that a TorchScript archive takes.

    That is the type of its weights. Where they have several types, it is the first of these in `TYPES`; where there are
    none, it is float32.

    Raises
    ------
    ValueError
        If it is another zip file. The message says what it is and what to give instead; it does not name the file.
    """
    from models import _pickles

    try:
        with zipfile.ZipFile(path) as opened:
            names = opened.namelist()
            if not any("/code/" in name for name in names):
                raise ValueError(_other(path, names))
            types = _pickles.storage_types(opened)
    except zipfile.BadZipFile as error:
        raise ValueError(broken_zip(path) or f"a damaged zip file: {error}") from None
    dtype = next((name for storage, name in TYPES.items() if storage in types), "float32")
    if dtype == "bfloat16":
        raise ValueError("its weights are bf16, for which NumPy has no type; save it as model.float() or model.half()")
    return dtype


def _other(path: Path, names: list[str]) -> str:
    """Return what a zip file without TorchScript code is, and what to do with it; `names` are its entries."""
    if any(name.endswith("archive_format") or name == "serialized_exported_program.json" for name in names):
        target = json.dumps(str(path.with_suffix(".onnx")))
        code = f"import torch; torch.onnx.export(torch.export.load({json.dumps(str(path))}), f={target})"
        return (
            "a program of torch.export (.pt2), which is not opened, as that evaluates expressions of the file; "
            f"where you trust it, make ONNX of it: python -c {shlex.quote(code)}"
        )
    if any(name.endswith("/data.pkl") for name in names):
        return pickled(path)
    return "a zip file without TorchScript code"


def pickled(path: Path) -> str:
    """Return what a file of torch.save is, and what to give instead."""
    from models import _pickles

    try:
        content, _ = _pickles.outline(path)
    except ValueError:
        return (
            "a pickle that torch.save did not write, or a damaged one; pickles are never opened, as that runs "
            "their code"
        )
    if isinstance(content, _pickles.Inert):
        return (
            f"a pickled {content.name}, which is never opened, as that runs code of the file; export it where it "
            'was made: torch.onnx.export(model.eval(), (torch.zeros(1, 3, 224, 224),), "model.onnx")'
        )
    kind = "a state dict or checkpoint" if isinstance(content, dict) else f"a {type(content).__name__}"
    weights = json.dumps(str(path), ensure_ascii=False)
    models = shlex.quote(f'models=[{{name="MODEL", pretrained={weights}}}]')
    return (
        f"without TorchScript code: {kind}, which has weights and no architecture; measure it by a study, with the "
        f"name of its architecture for MODEL: burnish run quickstart --set {models} --set data.path=IMAGES "
        "--set train.epochs=0 --skip tune,augment,prune; or export the model: "
        'torch.onnx.export(model.eval(), (torch.zeros(1, 3, 224, 224),), "model.onnx")'
    )
