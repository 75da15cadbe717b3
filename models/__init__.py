"""Models by name: `build("resnet34", num_classes=10)`; `save` and `load` keep weights with their architecture.

A model is a public function with the model's name in `models/<family>.py`; it takes `num_classes`, `in_channels`,
`image_size` (pixels) and, where it can be scaled, `width`. `build`'s `upsample` makes any of them enlarge its images first.
"""

from __future__ import annotations

import ast
import importlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


@cache
def families() -> dict[str, str]:
    """Model name -> family file. Nothing is imported: a model is a public function that takes `num_classes`."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and "num_classes" in {a.arg for a in node.args.args}:
                found[node.name] = path.stem
    return found


def build(name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 224, **options: Any) -> nn.Module:
    """Build an untrained classifier: float32 (batch, in_channels, image_size, image_size) -> logits (batch, num_classes).

    With `upsample` (pixels) it is a model of such images, and enlarges those it is given to that size.

    Raises
    ------
    ValueError
        If no family file has a function of that name.
    """
    if name not in families():
        raise ValueError(f"unknown model {name!r}; accepted: {', '.join(sorted(families()))}")
    function = getattr(importlib.import_module(f"models.{families()[name]}"), name)
    size = options.pop("upsample", None)
    model = function(num_classes=num_classes, in_channels=in_channels, image_size=size or image_size, **options)
    return importlib.import_module("models._upsample").upsampled(model, size) if size else model


def save(model: nn.Module, path: str | Path, architecture: dict[str, Any]) -> None:
    """Write weights as safetensors; `architecture` (the arguments of `build`) goes into the header."""
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, str(path), metadata={"burnish": json.dumps(architecture, sort_keys=True)})


def load(path: str | Path) -> nn.Module:
    """Open what `save` wrote, in evaluation mode, on the CPU; pruned weights shrink the layers that hold them.

    Raises
    ------
    ValueError
        If the file is not safetensors, or not one that `save` wrote.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle, no dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if "burnish" not in metadata:
        raise ValueError(f"{path} holds weights without an architecture; it was not written by burnish")
    model = build(**json.loads(metadata["burnish"]))
    fit_shapes(model, state)
    model.load_state_dict(state)
    return model.eval()


def architecture(path: str | Path) -> dict[str, Any]:
    """The arguments of `build` that `save` wrote into a safetensors header."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()["burnish"])


def fit_shapes(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give every convolution, normalization and linear layer the shape of its entry in `state` (after pruning)."""
    import torch
    from torch import nn

    for name, module in model.named_modules():
        weight = state.get(f"{name}.weight")
        if weight is None:
            continue
        if isinstance(module, nn.Conv2d):
            if module.groups == module.in_channels == module.out_channels:  # depthwise
                module.groups = weight.shape[0]
            module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = weight.shape[0]
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(weight.shape)
        for key, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            new = state[f"{name}.{key}"]
            if new.shape != old.shape:
                empty = torch.empty_like(new)
                setattr(module, key, nn.Parameter(empty) if isinstance(old, nn.Parameter) else empty)
