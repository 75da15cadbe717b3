"""Writes files that hold images (Parquet tables, zip archives and image files), and reads sources of images."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.datasets import open_source
from tasks.datasets._decode import decode
from tasks.datasets._source import Part
from tasks.records import Data
from tests.support.paths import SHARED

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data: {SHARED} (set BURNISH_SHARED)")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value: int = 0, size: tuple[int, int] = (4, 4), mode: str = "RGB", **options: Any) -> bytes:
    """Return a PNG all of whose pixels have one value."""
    file = io.BytesIO()
    colour = value if len(mode) == 1 else (value,) * len(mode)
    Image.new(mode, size, colour).save(file, "PNG", **options)
    return file.getvalue()


def write_parquet(
    path: Path,
    rows: list[tuple[bytes | None, int | None]],
    names: list[str] | None = None,
    *,
    image: str = "img",
    label: str = "label",
    null: tuple[int, ...] = (),
) -> Path:
    """Write (image file, label) rows in the layout of Hugging Face's hub. Rows numbered in `null` have no image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if names else None
    images = [None if i in null else {"bytes": row[0], "path": f"{i}.png"} for i, row in enumerate(rows)]
    schema = pa.schema([(image, IMAGE), (label, pa.int64())], metadata=metadata)
    columns = [pa.array(images, IMAGE), pa.array([row[1] for row in rows], pa.int64())]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, row_group_size=3)
    return path


def first_pixels(part: Part, rows: list[int] | None = None) -> list[int]:
    """Return the value of the first pixel of each image, or of each image in `rows`."""
    images = part.read(range(part.rows) if rows is None else rows)
    return [int(decode(image, None).flat[0]) for image, _ in images]


def write_tiny_imagenet(root: Path) -> Path:
    """Write two classes in the layout of the published archive, and a third folder that wnids.txt does not list."""
    base = root / "tiny-imagenet-200"
    wnids = ["n02", "n01"]
    write_images(base, {f"train/{w}/images/{w}_{i}.JPEG": 10 * k + i for k, w in enumerate(wnids) for i in range(3)})
    write_images(base, {"train/n09/images/n09_0.JPEG": 99, "test/images/test_0.JPEG": 98})
    write_images(base, {"val/images/val_0.JPEG": 50, "val/images/val_1.JPEG": 51, "val/images/val_2.JPEG": 52})
    (base / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (base / "words.txt").write_text("n01\tcat\nn02\tdog\n")
    (base / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.JPEG\t0\t0\t3\t3\n")
    (base / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t3\t3\nval_1.JPEG\tn01\t0\t0\t3\t3\n")
    return base


def zipped(base: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(base.rglob("*")):
            archive.write(path, path.relative_to(base.parent))
    return target


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def as_if_huge(content: bytes) -> bytes:
    """Return the PNG with a header that claims 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def write_images(root: Path, images: dict[str, int]) -> Path:
    """Write a PNG per entry of `images`: relative path -> value of all its pixels."""
    for name, value in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(value))
    return root


def opened(source: str, path: Path | str, **more: Any) -> Any:
    return open_source(Data(source=source, path=str(path), **more))
