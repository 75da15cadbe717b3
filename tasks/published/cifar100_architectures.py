"""S3's second half: accuracy and training time of the same three architectures on CIFAR-100."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import _cifar

if TYPE_CHECKING:
    from tasks.published import Comparison, Tables

HARDWARE = _cifar.HARDWARE


def compare(tables: Tables) -> list[Comparison]:
    """Return accuracy and time per model, and what each technique alone, all together and none of them give."""
    return _cifar.compare(tables, "CIFAR-100")
