"""Models by name: `build("resnet34", num_classes=10)`; `save` and `load` keep weights with their architecture.

A model is a public function in `models/<family>.py` that has the model's name. It takes `num_classes`, `in_channels`,
`image_size` (pixels) and, where the model can be scaled, `width`. The names `timm:NAME` and `torchvision:NAME` stand
for the models of those libraries.
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
from models._suggestion import suggestion

if TYPE_CHECKING:
    import torch
    from torch import nn


@cache
def _functions() -> dict[str, tuple[str, frozenset[str]]]:
    """Return, for the name of each model, the family file that defines it and the parameters that it takes.

    The files are parsed, not imported. A model is a public function that takes `num_classes`.
    """
    functions = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            parameters = frozenset(argument.arg for argument in node.args.args)
            if "num_classes" in parameters:
                functions[node.name] = path.stem, parameters
    return functions


def families() -> dict[str, str]:
    """Return, for the name of each model, the name of the family file that defines it. Nothing is imported."""
    return {name: family for name, (family, _) in _functions().items()}


def check(name: str, width: int | None = None) -> None:
    """Refuse a name that `build` does not know, or a width for a model that cannot be scaled, with a ValueError.

    No library is imported for this check, not even torch.
    """
    if ":" in name:
        _library.check(name)
    elif name not in families():
        same = next(
            (f"{library}:{name}" for library in ("torchvision", "timm") if name in _library.names(library)), None
        )
        hint = f"did you mean {same}? " if same else suggestion(name, families())
        raise ValueError(
            f"unknown model {name!r}; {hint}accepted: {', '.join(sorted(families()))}, timm:NAME, torchvision:NAME"
        )
    if width is not None and (":" in name or "width" not in _functions()[name][1]):
        raise ValueError(f"{name} has one width; leave out models.width")


def module(name: str) -> str:
    """Return the name of the module that builds a model. `build` imports it by name, so that no import shows it."""
    return "models._library" if ":" in name else f"models.{families()[name]}"


def pretrained(model: nn.Module, name: str, source: str, image_size: int) -> _pretrained.Loaded:
    """Load weights that somebody else trained into a model that `build` made; see `models._pretrained.load_into`."""
    return _pretrained.load_into(model, name, source, image_size)


def weights_file(source: str) -> Path | None:
    """Return the file that `pretrained = source` names, or None for "hub". No library is imported.

    Raises
    ------
    ValueError
        If there is no such file.
    """
    return _pretrained.locate(source)


def check_weights(source: str) -> None:
    """Refuse a file `pretrained = source` that does not exist or holds no weights, with a ValueError of one line.

    The whole file is read. Whether its weights fit the model is only checked when they are loaded into it.
    """
    path = weights_file(source)
    if path is not None:
        _pretrained.read(path, {}, [])


def check_gelu(name: str) -> None:
    """Refuse `gelu` for a model that has no exact GELU layer, with a ValueError. This builds the model."""
    import torch

    with torch.device("meta"):
        if not _gelu.approximate(_build(name, num_classes=2, in_channels=3, image_size=224)):
            raise ValueError(f"{name} has no exact GELU; leave out models.gelu")


def build(name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 224, **options: Any) -> nn.Module:
    """Build an untrained classifier.

    The classifier maps float32 images (batch, in_channels, image_size, image_size) to logits (batch, num_classes).

    Parameters
    ----------
    options
        `width`: channels of the first stage, for models that can be scaled. `upsample`: the model is built for images
        of this many pixels per side and enlarges its input to that size. `gelu` = "tanh": its GELU layers use the tanh
        approximation.

    Raises
    ------
    ValueError
        If no model has that name, or the model has no GELU to approximate, or cannot take images of that size.
    """
    import torch

    check(name, options.get("width"))
    if options.get("gelu"):
        check_gelu(name)
    try:
        model = _build(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size, **options)
        # A forward pass on the meta device computes shapes alone, so it costs no arithmetic.
        with torch.no_grad():
            copy.deepcopy(model).to("meta").eval()(torch.empty(1, in_channels, image_size, image_size, device="meta"))
    except (RuntimeError, AssertionError, ValueError, ArithmeticError, LookupError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        size = options.get("upsample", image_size)
        raise ValueError(f"{name} does not take images of {size} pixels ({reason}); set data.image_size") from error
    return model


def _build(
    name: str, *, image_size: int, upsample: int | None = None, gelu: str | None = None, **options: Any
) -> nn.Module:
    """Build a model as `build` does, without checking its name or the size of its images."""
    library, _, library_name = name.partition(":")
    options["image_size"] = upsample or image_size
    if library_name:
        model = getattr(_library, library)(library_name, **options)
    else:
        model = getattr(importlib.import_module(f"models.{families()[name]}"), name)(**options)
    if gelu == "tanh":
        _gelu.approximate(model)
    return _upsample.upsampled(model, upsample) if upsample else model


def fuse(model: nn.Module, name: str) -> None:
    """Change a model in place, so that the pointwise part of its ConvNeXt blocks runs as Triton kernels.

    Weights and outputs stay the same.

    Raises
    ------
    ValueError
        If the model has no ConvNeXt block.
    """
    if not _fused.fuse(model):
        raise ValueError(f"{name} has no block that can be fused; convnext_18m and torchvision's ConvNeXts have")


def save(model: nn.Module, path: str | Path, architecture: dict[str, Any]) -> None:
    """Write a model's weights as safetensors, with `architecture` (the arguments of `build`) in the file's header."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, str(path), metadata={"burnish": json.dumps(architecture, sort_keys=True)})


def load(path: str | Path) -> nn.Module:
    """Load a model that `save` wrote, onto the CPU and in evaluation mode.

    If the model was pruned, its layers get the smaller shapes of the stored weights.

    Raises
    ------
    ValueError
        If the file is not a safetensors file, or was not written by `save`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            state = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if "burnish" not in metadata:
        raise ValueError(f"{path} holds weights without an architecture; it was not written by burnish")
    model = _build(**json.loads(metadata["burnish"]))
    fit_shapes(model, state)
    model.load_state_dict(state)
    return model.eval()


def architecture(path: str | Path) -> dict[str, Any]:
    """Return the arguments of `build` that `save` wrote into the header of a safetensors file."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()["burnish"])


def fit_shapes(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give every parameter and buffer of a model the shape of its entry in `state`, as it is needed after pruning.

    The layers' own counts of channels and features follow.
    """
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, module in model.named_modules():
        for key, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            new = state.get(f"{name}.{key}" if name else key)
            # A buffer that is not saved has no entry.
            if new is None or new.shape == old.shape:
                continue
            empty = torch.empty_like(new)
            setattr(module, key, nn.Parameter(empty) if isinstance(old, nn.Parameter) else empty)
            if isinstance(module, nn.Conv2d):
                is_depthwise = module.groups == module.in_channels == module.out_channels
                if is_depthwise:
                    module.groups = new.shape[0]
                module.out_channels = new.shape[0]
                module.in_channels = module.weight.shape[1] * module.groups
            elif isinstance(module, nn.Linear):
                module.out_features, module.in_features = module.weight.shape
            elif isinstance(module, _BatchNorm):
                module.num_features = new.shape[0]
            elif isinstance(module, nn.LayerNorm):
                module.normalized_shape = tuple(new.shape)
