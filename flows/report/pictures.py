"""Pictures of images that were given the wrong class, for the report's section on mistakes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.caching.store import Corrupt, Store
from tasks.records import Artifact

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import polars as pl

    Images = np.ndarray
    """uint8, (rows, height, width, channels)."""

SIDE = 96
"""Side of a picture in pixels. Larger images are reduced to it, smaller ones shown enlarged by a whole factor."""


@dataclass(frozen=True)
class Picture:
    """An image that was given the wrong class."""

    row: int
    """Row of the image among the prepared images."""
    file: str | None
    """The image's file, None where the data set has no files."""
    true: str
    """Name of its class."""
    predicted: str
    """Name of the class that it was given."""
    confidence: float
    source: str | None
    """The picture as a data URI, None where the prepared images are not there."""
    width: int | None
    """Width of the picture on the page, in CSS pixels."""

    @property
    def alternative(self) -> str:
        """The mistake in words."""
        image = self.file or f"Row {self.row}"
        return f"{image}: {self.true}, taken for {self.predicted} at confidence {self.confidence:.3f}"


def load_images(out: Path, datasets: pl.DataFrame | None) -> Images | str:
    """Return the prepared images that the table `datasets` names, memory-mapped; or the reason why they are missing."""
    import numpy as np

    rows = datasets.to_dicts() if datasets is not None else []
    if not rows:
        return "the table datasets is not there"
    if rows[0].get("images_path") is None:
        return "an older version of burnish, which did not say where they are, made this run"
    named = {key: rows[0][f"images_{key}"] for key in ("path", "sha256", "size_bytes")}
    try:
        return np.load(Store(out / "store").get(Artifact(**named, format="npy")), mmap_mode="r")
    except Corrupt as error:
        return str(error)


def encoded(pixels: np.ndarray) -> tuple[str, int]:
    """Return an image as PNG in a data URI, and its width on the page, which enlarges tiny images."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}", image.width * (SIDE // image.width)


def most_confident(wrong: pl.DataFrame, names: Sequence[str], images: Images | str, most: int) -> list[Picture]:
    """Return the most confident mistakes among those in `wrong`, at most `most` of them."""
    pictures = []
    for row in wrong.sort("confidence", "image", descending=[True, False]).head(most).to_dicts():
        source, width = (None, None) if isinstance(images, str) else encoded(images[row["image"]])
        picture = Picture(
            row=row["image"],
            file=row.get("file"),
            true=names[row["label"]],
            predicted=names[row["prediction"]],
            confidence=row["confidence"],
            source=source,
            width=width,
        )
        pictures.append(picture)
    return pictures
