"""S3: accuracy and training time of three architectures on CIFAR-10, with and without techniques; beside it
CIFAR-100's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import _cifar

if TYPE_CHECKING:
    from tasks.published import Comparison, Tables

HARDWARE = _cifar.HARDWARE


def compare(tables: Tables) -> list[Comparison]:
    """Accuracy and time by model, and what each technique alone, all and none give."""
    return _cifar.compare(tables, "CIFAR-10")
