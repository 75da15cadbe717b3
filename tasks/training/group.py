"""The processes that train one model together: what they tell one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy

if TYPE_CHECKING:
    import torch
    from torch import nn


T = TypeVar("T")


class Group:
    """A process that trains alone: it is told what it says."""

    rank = 0
    size = 1

    def wrap(self, model: nn.Module, device: str) -> nn.Module:
        """The model with gradients that are the mean over all processes."""
        return model

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def lowest(self, value: int) -> int:
        return value

    def gather(self, values: numpy.ndarray) -> numpy.ndarray:
        """Rows of all processes, one after the other."""
        return values

    def first(self, value: T) -> T:
        """What rank 0 says."""
        return value


class Processes(Group):
    """One of several processes of torch.distributed's default group, each of which has a part of every batch."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def wrap(self, model: nn.Module, device: str) -> nn.Module:
        """DistributedDataParallel; on GPUs BatchNorm sees the whole batch (on CPUs there is no such layer: its
        part)."""
        import torch

        # PyTorch's drops the activations in timm's BatchNorm
        from timm.layers import convert_sync_batchnorm

        if device == "cpu":
            return torch.nn.parallel.DistributedDataParallel(model)
        synchronised = convert_sync_batchnorm(model)
        return torch.nn.parallel.DistributedDataParallel(synchronised, device_ids=[torch.device(device).index])

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        import torch.distributed as dist

        total = values.clone()
        dist.all_reduce(total)
        return total

    def _all(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def lowest(self, value: int) -> int:
        return min(self._all(value))

    def gather(self, values: numpy.ndarray) -> numpy.ndarray:
        return numpy.concatenate(self._all(values))

    def first(self, value: T) -> T:
        return self._all(value)[0]  # type: ignore[no-any-return]
