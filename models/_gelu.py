"""Replace a model's exact GELU layers by the tanh approximation.

Source: Hendrycks & Gimpel 2016, Gaussian Error Linear Units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def approximate(model: nn.Module) -> int:
    """Replace every exact GELU layer of a model in place, and return how many there were. Weights keep their names."""
    from torch import nn

    exact_layers = [name for name, module in model.named_modules() if _is_exact(module)]
    for name in exact_layers:
        model.set_submodule(name, nn.GELU(approximate="tanh"))
    return len(exact_layers)


def _is_exact(module: nn.Module) -> bool:
    """Return whether a module is a GELU layer without approximation."""
    from torch import nn

    if isinstance(module, nn.GELU):
        return module.approximate == "none"
    # timm has a GELU class of its own, which models use that are configured with the name "gelu".
    return type(module).__name__ == "GELU" and type(module).__module__.startswith("timm.")
