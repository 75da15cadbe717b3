"""Images in Parquet as the Hugging Face hub lays them out: a file, a folder, or a data set's name on the hub."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from tasks.datasets import Images, Part, Source, fingerprint, location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.datasets import Encoded
    from tasks.records import Data

    Files = dict[str, list[Path]]
    """Part -> its files, in row order."""

SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(:(?P<config>[\w.-]+))?")
BATCH_ROWS = 128  # rows decompressed at a time


def open(data: Data) -> Source:
    """Open data.path: a .parquet file, a folder of them, or "owner/name" or "owner/name:config" on the hub.

    "owner/name:validation" (or train, test) is that part alone: of ImageNet, 6 GB rather than 150.
    A file belongs to the part that its name begins with (train-00000-of-00002.parquet) or that its folder is named
    after (train/0000.parquet); if no file says so, all are one set without splits ("train"). The image column is
    the struct with a field `bytes`, whatever its name; the label is the integer column `label`, else the first
    ClassLabel in the schema's metadata (key "huggingface"), where class names come from too.

    Raises
    ------
    ValueError
        When its images are asked for: nothing there, the hub not reached, no image or label column, a damaged file.
    """

    find = cache(lambda: _find(data))

    def content() -> str:
        files, root = find()
        return fingerprint([path for paths in files.values() for path in paths], root)

    return Source(lambda: _load(find()[0], data.path), content)


def _find(data: Data) -> tuple[Files, Path]:
    """Files of each part, and the folder below which they lie."""
    path = location(data)
    if path.is_file():
        return {"train": [path]}, path.parent
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*.parquet") if not p.name.startswith(".")]
        chosen = _choose(names, None, data.path)
        return {part: [path / name for name in found] for part, found in chosen.items()}, path
    if match := NAME.fullmatch(data.path):
        return _download(match["repo"], match["config"], data.path)
    raise ValueError(f"data.path: {data.path} is not there; give a .parquet file, a folder of them, or a data set's "
                     "name on the Hugging Face hub (owner/name)")  # fmt: skip


def _part_of(name: str) -> str | None:
    """Part that a file's name or the name of its folder says."""
    path = PurePosixPath(name)
    for word in (path.name, path.parent.name):
        if match := re.match(r"(train|validation|valid|val|test)(?![a-z0-9])", word.lower()):
            return SPLITS[match[1]]
    return None


def _choose(names: list[str], config: str | None, where: str) -> dict[str, list[str]]:
    """Files of one configuration, by part.

    Files of one configuration lie in one folder, or in folders named after parts in one folder.
    """
    if config in SPLITS:
        names, config = [name for name in names if _part_of(name) == SPLITS[config]], None
    configs: dict[str, list[str]] = {}
    for name in sorted(names):
        folder = PurePosixPath(name).parent
        configs.setdefault((folder.parent if folder.name in SPLITS else folder).as_posix(), []).append(name)
    if not configs:
        raise ValueError(f"data.path: {where} holds no .parquet files")
    if config is not None:
        configs = {folder: found for folder, found in configs.items() if config in folder.split("/")}
    if len(configs) != 1:
        there = ", ".join(configs) or ", ".join(sorted(names)[:5])
        raise ValueError(f"data.path: {where} holds {len(configs) or 'no such'} data sets (in {there}); give one of "
                         "the folders, or owner/name:config for one on the hub")  # fmt: skip
    (found,) = configs.values()
    parts: dict[str, list[str]] = {}
    for name in found:
        parts.setdefault(_part_of(name) or "", []).append(name)
    if "" in parts and len(parts) > 1:
        raise ValueError(
            f"data.path: {where}: {', '.join(parts[''])} begin with none of train, validation, valid, test"
        )
    return {"train": found} if "" in parts else parts


def _download(repo: str, config: str | None, where: str) -> tuple[Files, Path]:
    """Files of a data set on the hub, fetched into the hub's own cache."""
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        for revision in (None, "refs/convert/parquet"):  # where the hub keeps what it has converted to Parquet itself
            info = HfApi().dataset_info(repo, revision=revision)
            names = [file.rfilename for file in info.siblings or () if file.rfilename.endswith(".parquet")]
            if names:
                break
        chosen = _choose(names, config, where)
        files = {
            part: [Path(hf_hub_download(repo, name, repo_type="dataset", revision=info.sha)) for name in found]
            for part, found in chosen.items()
        }
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # httpx's, whichever the hub is built on
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"data.path: {where} is neither here nor to be had from the Hugging Face hub: {why}"
        ) from error
    first = next(iter(files.values()))[0]
    depth = len(PurePosixPath(next(iter(chosen.values()))[0]).parts)
    return files, first.parents[depth - 1]


def _load(files: Files, where: str) -> Images:
    parts, names = {}, set()
    for part, paths in files.items():
        opened = [_open(path) for path in paths]
        image, label, classes = _columns(opened[0].schema_arrow, paths[0])
        for file, path in zip(opened[1:], paths[1:], strict=True):
            if _columns(file.schema_arrow, path) != (image, label, classes):
                raise ValueError(f"{path} has other columns or class names than {paths[0]}")
        names.add(classes)
        labels = [value for path in paths for value in _read_labels(path, label)]
        parts[part] = Part(labels, _reader(paths, [file.metadata.num_rows for file in opened], image))
    if len(names) > 1:
        raise ValueError(f"data.path: the files of {where} do not agree on the class names")
    (classes,) = names
    if classes is None:
        classes = _numbered(parts, where)
    return Images(classes, parts)


def _numbered(parts: dict[str, Part], where: str) -> tuple[str, ...]:
    top = max((label for part in parts.values() for label in part.labels if label is not None), default=-1)
    rows = sum(part.rows for part in parts.values())
    if top >= rows:
        raise ValueError(f"data.path: {where} has no class names, and labels up to {top} in {rows} rows")
    return tuple(str(label) for label in range(top + 1))


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"data.path: {path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}")


def _columns(schema: pa.Schema, path: Path) -> tuple[str, str, tuple[str, ...] | None]:
    """(image column, label column, class names if the metadata has them)."""
    import pyarrow as pa

    images = [f.name for f in schema if pa.types.is_struct(f.type) and "bytes" in {child.name for child in f.type}]
    if len(images) != 1:
        raise ValueError(f"data.path: {path} needs one image column, a struct with a field `bytes`; it has "
                         f"{', '.join(images) or 'none'} (columns: {', '.join(schema.names)})")  # fmt: skip
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    named = [name for name, feature in described.items() if isinstance(feature, dict) and "names" in feature]
    for label in ("label", *named):
        if label in schema.names and pa.types.is_integer(schema.field(label).type):
            classes = described.get(label, {}).get("names")
            return images[0], label, tuple(map(str, classes)) if classes else None
    raise ValueError(f"data.path: {path} needs an integer column `label`, or one that the metadata calls a ClassLabel "
                     f"(columns: {', '.join(schema.names)})")  # fmt: skip


def _read_labels(path: Path, column: str) -> list[int | None]:
    import pyarrow as pa

    try:
        return _open(path).read(columns=[column]).column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _reader(
    paths: list[Path], counts: list[int], column: str
) -> Callable[[Sequence[int]], Iterator[tuple[Encoded, str]]]:
    """Rows of several files, numbered through -> images; only row groups that hold a wanted row are read."""

    def images(rows: Sequence[int]) -> Iterator[tuple[Encoded, str]]:
        wanted, first = np.asarray(rows, dtype=np.int64), 0
        for path, count in zip(paths, counts, strict=True):
            yield from _of_file(path, column, _between(wanted, first, count))
            first += count

    return images


def _between(rows: np.ndarray, first: int, count: int) -> np.ndarray:
    """Of ascending rows those from `first` on, `count` rows far, numbered from there."""
    low, high = np.searchsorted(rows, (first, first + count))
    return rows[low:high] - first


def _of_file(path: Path, column: str, wanted: np.ndarray) -> Iterator[tuple[Encoded, str]]:
    import pyarrow as pa

    file, first = _open(path), 0
    try:
        for group in range(file.num_row_groups):
            inside = _between(wanted, first, file.metadata.row_group(group).num_rows)
            first += file.metadata.row_group(group).num_rows
            start = 0
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]) if len(inside) else ():
                yield from _of_batch(batch, _between(inside, start, batch.num_rows))
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _of_batch(batch: pa.RecordBatch, wanted: np.ndarray) -> Iterator[tuple[Encoded, str]]:
    struct = batch.column(0).take(wanted)
    fields = dict(
        zip((child.name for child in struct.type), struct.flatten(), strict=True)
    )  # a null struct: null fields
    paths = fields["path"].to_pylist() if "path" in fields else [None] * len(wanted)
    for image, name in zip(fields["bytes"].to_pylist(), paths, strict=True):
        yield image, name or ""
