"""Stages that a study may be without: the settings that leave each of them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.records._base import SkippableStage

LEFT_OUT: dict[SkippableStage, dict[str, Any]] = {
    "ablate": {"techniques": {}},
    "tune": {"trials": 0},
    "augment": {"policies": ()},
    "prune": {"ratios": ()},
    "quantize": {"settings": (), "dynamic": False},
    "qat": {"epochs": 0},
    "build": {"precisions": ()},
    "search": {"trials": 0},
    "serve": {"seconds": 0.0},
}
"""Stage -> the fields of its settings by which it is left out."""
