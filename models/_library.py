"""Models of torchvision and of timm, by their own names; a name is checked without importing either."""

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
"""Models of torchvision that answer with several logits while they are trained."""


@cache
def _sources(library: str) -> str:
    """The text of a library's model files; importing torchvision takes ten seconds, timm half as long."""
    spec = importlib.util.find_spec(library)
    assert spec is not None, f"{library} is a requirement"
    folder = (spec.submodule_search_locations or [""])[0]
    return "\n".join(path.read_text() for path in sorted((Path(folder) / "models").glob("[!_]*.py")))


@cache
def names(library: str) -> tuple[str, ...]:
    """Classifiers that `library` ("timm" or "torchvision") registers."""
    found = re.findall(r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)\(", _sources(library), re.MULTILINE)
    return tuple(sorted(name for name in found if library == "timm" or name not in AUXILIARY))


def check(name: str) -> None:
    """Refuse what is no `timm:NAME` (or `timm:NAME.WEIGHTS`) or `torchvision:NAME`, with a ValueError."""
    library, _, called = name.partition(":")
    if library not in LIBRARIES:
        raise ValueError(f"unknown library {library!r} in {name!r}; accepted: {', '.join(LIBRARIES)}")
    base, _, tag = called.partition(".")
    if base not in names(library):
        near = difflib.get_close_matches(base, names(library), 3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{library} has no classifier {called!r} among its {len(names(library))}{hint}")
    if tag and (library == "torchvision" or not re.search(rf"['\"]{re.escape(called)}['\"]", _sources(library))):
        near = sorted(set(re.findall(rf"['\"]({re.escape(base)}\.\w+)['\"]", _sources(library))))
        hint = ", ".join(near if library == "timm" and near else [base])
        raise ValueError(f"{library} has no weights {called!r}; accepted: {hint}")


def torchvision(name: str, *, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """A classifier of torchvision, untrained."""
    from torchvision.models import get_model

    sized: dict[str, Any] = {}
    if name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        if image_size % patch:
            raise ValueError(f"it takes multiples of {patch}")
        sized = {"image_size": image_size}
    elif name.startswith("maxvit"):
        sized = {"input_size": (image_size, image_size)}
    model = get_model(name, weights=None, num_classes=num_classes, **sized)
    if in_channels != 3:
        _replace_stem(model, in_channels=in_channels)
    return model


def timm(name: str, *, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """A classifier of timm, untrained. `name` may end in the name of weights: vit_base_patch16_224.augreg_in1k."""
    from timm import create_model, get_pretrained_cfg

    about = get_pretrained_cfg(name, allow_unregistered=False)
    sized: dict[str, Any] = {"img_size": image_size} if about is not None and about.fixed_input_size else {}
    return create_model(name, num_classes=num_classes, in_chans=in_channels, **sized)


def _replace_stem(model: nn.Module, **changed: Any) -> None:
    """Build the first convolution anew with other arguments (in_channels, kernel_size, stride, padding)."""
    from torch import nn

    path, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    same = {key: getattr(old, key) for key in ("in_channels", "out_channels", "kernel_size", "stride", "padding")}
    new = nn.Conv2d(**(same | changed), bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(path, new)


def small_stem(model: nn.Module, pool: str) -> nn.Module:
    """A 3×3 stem of stride 1 without pooling, as published for 32×32 images, in place of 7×7, stride 2 and `pool`."""
    from torch import nn

    _replace_stem(model, kernel_size=3, stride=1, padding=1)
    model.set_submodule(pool, nn.Identity())
    return model
