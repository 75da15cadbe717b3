"""The group of processes that train one model together, as each of them sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy

if TYPE_CHECKING:
    import torch
    from torch import nn


T = TypeVar("T")


class Group:
    """A group of one: a process that trains alone. Every exchange gives back the value that this process put in."""

    rank = 0
    """Number of this process, from 0."""
    size = 1
    """Number of processes."""

    def wrap(self, model: nn.Module, device: str) -> nn.Module:
        """Return the model such that its gradients become the mean over all processes."""
        return model

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes, element by element."""
        return values

    def lowest(self, value: int) -> int:
        """Return the lowest of the values of all processes."""
        return value

    def gather(self, values: numpy.ndarray) -> numpy.ndarray:
        """Return the rows of all processes, one process after the other."""
        return values

    def first(self, value: T) -> T:
        """Return the value of rank 0."""
        return value


class Processes(Group):
    """A group of several processes: torch.distributed's default group. Each has its part of every batch."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def wrap(self, model: nn.Module, device: str) -> nn.Module:
        """Return the model in DistributedDataParallel.

        On GPUs, BatchNorm normalises over the whole batch. PyTorch has no such layer for CPUs, so that each process
        normalises its own part there.
        """
        import torch

        # PyTorch's own conversion drops the activations that timm's BatchNorm layers contain.
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

    def _of_all(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def lowest(self, value: int) -> int:
        return min(self._of_all(value))

    def gather(self, values: numpy.ndarray) -> numpy.ndarray:
        return numpy.concatenate(self._of_all(values))

    def first(self, value: T) -> T:
        return self._of_all(value)[0]  # type: ignore[no-any-return]
