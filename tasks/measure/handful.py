"""What a handful of validation images cannot tell.

A file of its own: it is all that training's key counts of what is said of evidence.
"""

from __future__ import annotations

from tasks.measure.metrics import FEW, smallest_drop


def handful(images: int) -> str:
    """What is to be said where scores of few validation images are said; empty where they are enough to choose by."""
    if images >= FEW:
        return ""
    least = f"{smallest_drop(images):.2g}"
    return (
        f"{images} validation image{'' if images == 1 else 's'} cannot tell trainings or int8 settings apart that "
        f"differ by less than {least} in top-1, so what is chosen by them may be chosen by chance"
    )
