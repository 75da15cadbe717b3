"""S3's first half: accuracy and training time of three architectures on CIFAR-10, with and without techniques."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import _cifar

if TYPE_CHECKING:
    from tasks.published import Comparison, Tables

HARDWARE = _cifar.HARDWARE


def compare(tables: Tables) -> list[Comparison]:
    """Return accuracy and time per model, and what each technique alone, all together and none of them give."""
    return _cifar.compare(tables, "CIFAR-10")
