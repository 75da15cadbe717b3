"""GELU by its tanh approximation (Hendrycks & Gimpel 2016, Gaussian Error Linear Units), in models that have GELU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def approximate(model: nn.Module) -> int:
    """Let every exact GELU layer of a model, in place, use tanh; returns how many there were. Weights keep their
    names."""
    from torch import nn

    found = [path for path, module in model.named_modules() if _is_exact(module)]
    for path in found:
        model.set_submodule(path, nn.GELU(approximate="tanh"))
    return len(found)


def _is_exact(module: nn.Module) -> bool:
    from torch import nn

    if isinstance(module, nn.GELU):
        return module.approximate == "none"
    # timm's own, in models that are given "gelu" by name.
    return type(module).__name__ == "GELU" and type(module).__module__.startswith("timm.")
