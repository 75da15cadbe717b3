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


def schedule(settings: Train) -> Callable[[float], float]:
    """Share of the peak learning rate at a share of all steps: up in a straight line, then as the schedule is called.

    one_cycle falls in a straight line (Smith & Topin 2018, Super-convergence), cosine as Loshchilov & Hutter 2017
    (SGDR).
    """
    warmup = WARMUP[settings.schedule] if settings.warmup is None else settings.warmup

    def share(done: float) -> float:
        if done < warmup:
            return done / warmup
        left = max(0.0, (1 - done) / (1 - warmup))
        return {"one_cycle": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[settings.schedule]

    return share


class Optimizer:
    """The optimizers of a training as one: sets the rate, steps, forgets the gradients."""

    def __init__(self, model: nn.Module, settings: Train, scaler: torch.amp.GradScaler) -> None:
        import torch

        self.model, self.scaler = model, scaler
        self.matrices: list[tuple[nn.Parameter, torch.Tensor]] = []
        """Pairs (matrix, weight): one memory."""
        self.parts: list[torch.optim.Optimizer] = []
        parameters = list(model.parameters())
        if settings.optimizer == "muon":
            hidden = _hidden(model)
            self.matrices = [(torch.nn.Parameter(_matrix(p.detach(), p)), p) for p in hidden]
            assert all(m.data_ptr() == p.data_ptr() for m, p in self.matrices)
            parameters = [p for p in parameters if not any(p is h for h in hidden)]
            # Scaled so that AdamW's learning rate and decay suit (Liu et al. 2025, Muon is scalable for LLM training).
            self.parts.append(
                torch.optim.Muon(
                    [m for m, _ in self.matrices],
                    settings.learning_rate,
                    settings.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        # Biases and normalization parameters are not decayed (Goyal et al. 2017; He et al. 2018, Bag of tricks).
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if settings.optimizer == "sgd":
            self.parts.append(
                torch.optim.SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True, fused=settings.fused)
            )
            # the fused kernel leaves momentum uninitialised where it skips the first step
            if scaler.is_enabled():
                for p in parameters:
                    self.parts[-1].state[p]["momentum_buffer"] = torch.zeros_like(p)
        else:
            self.parts.append(torch.optim.AdamW(groups, settings.learning_rate, fused=settings.fused))

    def step(self, rate: float) -> None:
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
        for part, kept in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(kept)
        self.scaler.load_state_dict(state["scaler"])


def _hidden(model: nn.Module) -> list[torch.Tensor]:
    """Weights that Muon is for (Jordan et al. 2024): of convolutions that mix channels, and of linear layers but the
    last."""
    from torch import nn

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    last = [m for m in layers if isinstance(m, nn.Linear)][-1:]
    return [m.weight for m in layers if m not in last and getattr(m, "groups", 1) == 1]


def _matrix(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A filter bank as a matrix, a row a filter, as its author does; a view where the memory of `weight` allows.

    Channels-last memory orders a row's entries otherwise, which orthogonalisation does not mind.
    """
    if weight.ndim > 2 and not weight.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(len(tensor), -1)


class Average:
    """Exponential moving average of weights and of normalization statistics.

    torch.optim.swa_utils.AveragedModel would wait for the GPU twice a step; its averaging function is used here. The
    decay rises as (1 + t) / (10 + t), as in TensorFlow's and timm's: a short training would average its initial
    weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = copy.deepcopy(model), decay, 0
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self.floats = [p for p in pairs if p[0].is_floating_point()]
        self.others = [p for p in pairs if not p[0].is_floating_point()]

    def update(self) -> None:
        """After a step."""
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages, values = ([p[n] for p in self.floats] for n in (0, 1))
        get_ema_multi_avg_fn(decay)(averages, values, None)
        for average, value in self.others:
            average.copy_(value)
