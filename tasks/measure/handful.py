"""The warning that few validation images cannot tell candidates apart.

It stands in a file of its own so that training's cache key counts nothing else of what the summary says about evidence.
"""

from __future__ import annotations

from tasks.measure.metrics import FEW, smallest_drop


def handful(images: int, metric: str = "top-1") -> str:
    """Return the warning that goes with scores of few validation images. It is empty where there are enough."""
    if images >= FEW:
        return ""
    least = f"{smallest_drop(images):.2g}"
    return (
        f"{images} validation image{'' if images == 1 else 's'} cannot tell trainings or int8 settings apart that "
        f"differ by less than {least} in {metric}, so what is chosen by them may be chosen by chance"
    )
