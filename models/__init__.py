"""Models by name: `build("resnet34", num_classes=10)`; `save` and `load` keep weights with their architecture.

A model is a public function with the model's name in `models/<family>.py`; it takes `num_classes`, `in_channels`,
`image_size` (pixels) and, where it can be scaled, `width`. `build`'s `upsample` makes any of them enlarge its images
first, and `gelu = "tanh"` approximate its GELU.
`timm:NAME` and `torchvision:NAME` are those libraries' own.
"""

from __future__ import annotations

import ast
import copy
import importlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import _fused, _gelu, _library, _pretrained, _upsample
from models._near import meant

if TYPE_CHECKING:
    import torch
    from torch import nn


@cache
def _functions() -> dict[str, tuple[str, frozenset[str]]]:
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and "num_classes" in (taken := {a.arg for a in node.args.args}):
                found[node.name] = path.stem, frozenset(taken)
    return found


def families() -> dict[str, str]:
    """Model name -> family file. Nothing is imported: a model is a public function that takes `num_classes`."""
    return {name: family for name, (family, _) in _functions().items()}


def check(name: str, width: int | None = None) -> None:
    """Refuse a name that `build` does not know, or a width where the model has none, with a ValueError.

    Neither torch's nor another library is imported for it.
    """
    if ":" in name:
        _library.check(name)
    elif name not in families():
        raise ValueError(
            f"unknown model {name!r}; {meant(name, families())}accepted: {', '.join(sorted(families()))}, timm:NAME, "
            "torchvision:NAME"
        )
    if width is not None and (":" in name or "width" not in _functions()[name][1]):
        raise ValueError(f"{name} has one width; leave out models.width")


def module(name: str) -> str:
    """The module that builds a model: what it is made of is reached by name, so no import tells of it."""
    return "models._library" if ":" in name else f"models.{families()[name]}"


def pretrained(model: nn.Module, name: str, source: str, image_size: int) -> _pretrained.Loaded:
    """Load weights that others trained into what `build` made; see `models._pretrained.load_into`."""
    return _pretrained.load_into(model, name, source, image_size)


def weights_file(source: str) -> Path | None:
    """The file of `pretrained = source`, None for "hub"; a ValueError where there is none. Imports no library."""
    return _pretrained.locate(source)


def check_weights(source: str) -> None:
    """Refuse a file of `pretrained = source` that is not there or holds no weights, with a ValueError of one line.

    The file is read as a whole. Whether its weights are those of the model is found out where they are loaded.
    """
    path = weights_file(source)
    if path is not None:
        _pretrained.read(path, {}, [])


def check_gelu(name: str) -> None:
    """Refuse `gelu` where the model has no GELU to approximate, with a ValueError. Its library is imported for it."""
    import torch

    with torch.device("meta"):
        if not _gelu.approximate(_build(name, num_classes=2, in_channels=3, image_size=224)):
            raise ValueError(f"{name} has no exact GELU; leave out models.gelu")


def build(name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 224, **options: Any) -> nn.Module:
    """Build an untrained classifier: float32 (batch, in_channels, image_size, image_size) -> logits (batch,
    num_classes).

    With `upsample` (pixels) it is a model of such images, and enlarges those it is given to that size. With `gelu` =
    "tanh" its GELU layers use the tanh approximation.

    Raises
    ------
    ValueError
        If there is no model of that name, it has no GELU to approximate, or it does not take images of that size.
    """
    import torch

    check(name, options.get("width"))
    if options.get("gelu"):
        check_gelu(name)
    try:
        model = _build(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size, **options)
        # on the meta device: shapes alone
        with torch.no_grad():
            copy.deepcopy(model).to("meta").eval()(torch.empty(1, in_channels, image_size, image_size, device="meta"))
    except (RuntimeError, AssertionError, ValueError, ArithmeticError, LookupError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        size = options.get("upsample", image_size)
        raise ValueError(f"{name} does not take images of {size} pixels ({why}); set data.image_size") from error
    return model


def _build(
    name: str, *, image_size: int, upsample: int | None = None, gelu: str | None = None, **options: Any
) -> nn.Module:
    kind, _, called = name.partition(":")
    options["image_size"] = upsample or image_size
    if called:
        model = getattr(_library, kind)(called, **options)
    else:
        model = getattr(importlib.import_module(f"models.{families()[name]}"), name)(**options)
    if gelu == "tanh":
        _gelu.approximate(model)
    return _upsample.upsampled(model, upsample) if upsample else model


def fuse(model: nn.Module, name: str) -> None:
    """Let the pointwise part of ConvNeXt's blocks, in place, run as Triton kernels: same weights, same function.

    Raises
    ------
    ValueError
        If the model has no such block.
    """
    if not _fused.fuse(model):
        raise ValueError(f"{name} has no block that can be fused; convnext_18m and torchvision's ConvNeXts have")


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
    model = _build(**json.loads(metadata["burnish"]))
    fit_shapes(model, state)
    model.load_state_dict(state)
    return model.eval()


def architecture(path: str | Path) -> dict[str, Any]:
    """The arguments of `build` that `save` wrote into a safetensors header."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()["burnish"])


def fit_shapes(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give every layer, and every parameter that is none's, the shape of its entry in `state` (after pruning)."""
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, module in model.named_modules():
        for key, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            new = state.get(f"{name}.{key}" if name else key)
            # None: a buffer that is not saved
            if new is None or new.shape == old.shape:
                continue
            empty = torch.empty_like(new)
            setattr(module, key, nn.Parameter(empty) if isinstance(old, nn.Parameter) else empty)
            if isinstance(module, nn.Conv2d):
                # depthwise
                if module.groups == module.in_channels == module.out_channels:
                    module.groups = new.shape[0]
                module.out_channels, module.in_channels = new.shape[0], module.weight.shape[1] * module.groups
            elif isinstance(module, nn.Linear):
                module.out_features, module.in_features = module.weight.shape
            elif isinstance(module, _BatchNorm):
                module.num_features = new.shape[0]
            elif isinstance(module, nn.LayerNorm):
                module.normalized_shape = tuple(new.shape)
