"""Optimizers, learning-rate schedules and the moving average of weights."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from tasks.records import Train

WARMUP = {"one_cycle": 0.25, "cosine": 0.05, "constant": 0.0}
"""Schedule -> share of all steps in which the learning rate rises, where `train.warmup` does not say."""


def schedule(settings: Train) -> Callable[[float], float]:
    """Return a function from the share of all steps that is done to a share of the peak learning rate.

    The rate rises in a straight line. Then one_cycle falls in a straight line (Smith & Topin 2018, Super-convergence),
    cosine falls as half a cosine (Loshchilov & Hutter 2017, SGDR), and constant stays.
    """
    warmup = WARMUP[settings.schedule] if settings.warmup is None else settings.warmup

    def rate(done: float) -> float:
        if done < warmup:
            return done / warmup
        remaining = max(0.0, (1 - done) / (1 - warmup))
        if settings.schedule == "one_cycle":
            return remaining
        if settings.schedule == "cosine":
            return 0.5 - 0.5 * math.cos(math.pi * remaining)
        return 1.0

    return rate


class Optimizer:
    """The optimizers of one training, used as one: each step sets the rate, steps, and drops the gradients."""

    def __init__(self, model: nn.Module, settings: Train, scaler: torch.amp.GradScaler) -> None:
        self.model = model
        self.scaler = scaler
        self.matrices: list[tuple[nn.Parameter, torch.Tensor]] = []
        """The weights that Muon updates: pairs (the weight as a matrix, the weight), which share their memory."""
        self.parts: list[torch.optim.Optimizer] = []
        """The optimizers: Muon first, where there is one, then SGD or AdamW."""
        parameters = list(model.parameters())
        if settings.optimizer == "muon":
            hidden = _hidden(model)
            parameters = [p for p in parameters if not any(p is h for h in hidden)]
            self._add_muon(hidden, settings)
        self._add_sgd_or_adamw(parameters, settings)

    def _add_muon(self, hidden: list[torch.Tensor], settings: Train) -> None:
        import torch

        self.matrices = [(torch.nn.Parameter(_matrix(p.detach(), p)), p) for p in hidden]
        assert all(m.data_ptr() == p.data_ptr() for m, p in self.matrices)
        muon = torch.optim.Muon(
            [matrix for matrix, _ in self.matrices],
            settings.learning_rate,
            settings.weight_decay,
            # At this scale, AdamW's learning rate and decay suit (Liu et al. 2025, Muon is scalable for LLM training).
            adjust_lr_fn="match_rms_adamw",
        )
        self.parts.append(muon)

    def _add_sgd_or_adamw(self, parameters: list[nn.Parameter], settings: Train) -> None:
        import torch

        # Biases and normalization parameters are not decayed (Goyal et al. 2017; He et al. 2018, Bag of tricks).
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if settings.optimizer != "sgd":
            self.parts.append(torch.optim.AdamW(groups, settings.learning_rate, fused=settings.fused))
            return
        sgd = torch.optim.SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True, fused=settings.fused)
        if self.scaler.is_enabled():
            # The fused kernel would leave the momentum uninitialised where the scaler skips the first step.
            for p in parameters:
                sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        self.parts.append(sgd)

    def step(self, rate: float) -> None:
        """Update the weights by their gradients at a learning rate, and drop the gradients."""
        for matrix, weight in self.matrices:
            matrix.grad = None if weight.grad is None else _matrix(weight.grad, weight)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            self.scaler.step(part)
        self.scaler.update()
        self.model.zero_grad(set_to_none=True)

    @property
    def rate(self) -> float:
        """Learning rate of the last step."""
        return float(self.parts[0].param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts], "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])


def _hidden(model: nn.Module) -> list[torch.Tensor]:
    """Return the weights that Muon is for (Jordan et al. 2024).

    They are those of convolutions that mix channels and of all linear layers but the last.
    """
    from torch import nn

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    last = [m for m in layers if isinstance(m, nn.Linear)][-1:]
    return [m.weight for m in layers if m not in last and getattr(m, "groups", 1) == 1]


def _matrix(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight or its gradient as a matrix with one row per filter, as Muon's author does.

    Where the memory of `weight` allows it, the matrix is a view. Channels-last memory orders the entries of a row
    differently, which changes nothing in Muon's orthogonalisation.
    """
    if weight.ndim > 2 and not weight.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(len(tensor), -1)


class Average:
    """Exponential moving average of the weights and normalization statistics of a model in training.

    torch.optim.swa_utils.AveragedModel would wait for the GPU twice per step, so that only its averaging function is
    used. The decay after t steps is at most (1 + t) / (10 + t), as in TensorFlow and timm: otherwise the average of a
    short training would consist of its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        """The model with the averages."""
        self.decay = decay
        self.steps = 0
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self.floats = [pair for pair in pairs if pair[0].is_floating_point()]
        """Pairs (average, value) of tensors that are averaged."""
        self.others = [pair for pair in pairs if not pair[0].is_floating_point()]
        """Pairs of tensors that are copied: counts."""

    def update(self) -> None:
        """Take in the weights after a step of the optimizer."""
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages = [average for average, _ in self.floats]
        values = [value for _, value in self.floats]
        get_ema_multi_avg_fn(decay)(averages, values, None)
        for average, value in self.others:
            average.copy_(value)
