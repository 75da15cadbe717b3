"""Models of torchvision and timm, by the names that those libraries give them.

A name is checked without importing the library.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")
AUXILIARY = ("googlenet", "inception_v3")
"""Models of torchvision that return a second set of logits during training, which the training loop does not know."""


@cache
def _sources(library: str) -> str:
    """Return the source text of a library's model files. Importing torchvision would take 10 seconds, timm 5."""
    spec = importlib.util.find_spec(library)
    assert spec is not None, f"{library} is a requirement"
    folder = (spec.submodule_search_locations or [""])[0]
    return "\n".join(path.read_text() for path in sorted((Path(folder) / "models").glob("[!_]*.py")))


@cache
def names(library: str) -> tuple[str, ...]:
    """Return the names of the classifiers that `library` ("timm" or "torchvision") registers, sorted."""
    registered = re.findall(r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)\(", _sources(library), re.MULTILINE)
    return tuple(sorted(name for name in registered if library == "timm" or name not in AUXILIARY))


def check(name: str) -> None:
    """Refuse a name that is not `timm:NAME`, `timm:NAME.WEIGHTS` or `torchvision:NAME`, with a ValueError."""
    library, _, library_name = name.partition(":")
    if library not in LIBRARIES:
        raise ValueError(f"unknown library {library!r} in {name!r}; accepted: {', '.join(LIBRARIES)}")
    base, _, weights = library_name.partition(".")
    if base not in names(library):
        similar = difflib.get_close_matches(base, names(library), 3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise ValueError(f"{library} has no classifier {library_name!r} among its {len(names(library))}{hint}")
    if weights and (
        library == "torchvision" or not re.search(rf"['\"]{re.escape(library_name)}['\"]", _sources(library))
    ):
        known = sorted(set(re.findall(rf"['\"]({re.escape(base)}\.\w+)['\"]", _sources(library))))
        accepted = ", ".join(known if library == "timm" and known else [base])
        raise ValueError(f"{library} has no weights {library_name!r}; accepted: {accepted}")


def torchvision(name: str, *, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Build an untrained classifier of torchvision."""
    from torchvision.models import get_model

    size_argument: dict[str, Any] = {}
    if name.startswith("vit_"):
        patch_size = int(name.rpartition("_")[2])
        if image_size % patch_size:
            raise ValueError(f"it takes multiples of {patch_size}")
        size_argument = {"image_size": image_size}
    elif name.startswith("maxvit"):
        size_argument = {"input_size": (image_size, image_size)}
    model = get_model(name, weights=None, num_classes=num_classes, **size_argument)
    if in_channels != 3:
        _replace_stem(model, in_channels=in_channels)
    return model


def timm(name: str, *, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Build an untrained classifier of timm. `name` may end in a set of weights: vit_base_patch16_224.augreg_in1k."""
    from timm import create_model, get_pretrained_cfg

    config = get_pretrained_cfg(name, allow_unregistered=False)
    size_argument: dict[str, Any] = {}
    if config is not None and config.fixed_input_size:
        size_argument = {"img_size": image_size}
    return create_model(name, num_classes=num_classes, in_chans=in_channels, **size_argument)


def _replace_stem(model: nn.Module, **changes: Any) -> None:
    """Replace a model's first convolution by a new one that differs in the arguments given as `changes`.

    They may be `in_channels`, `kernel_size`, `stride` and `padding`.
    """
    from torch import nn

    name, old = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    arguments = {key: getattr(old, key) for key in ("in_channels", "out_channels", "kernel_size", "stride", "padding")}
    new = nn.Conv2d(**(arguments | changes), bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(name, new)


def small_stem(model: nn.Module, pool: str) -> nn.Module:
    """Give a model, in place, the stem that is published for 32×32 images, and return it.

    A 3×3 convolution of stride 1 replaces the 7×7 one of stride 2, and the pooling layer named `pool` is removed.
    """
    from torch import nn

    _replace_stem(model, kernel_size=3, stride=1, padding=1)
    model.set_submodule(pool, nn.Identity())
    return model
