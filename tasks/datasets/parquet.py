"""Images in Parquet as the Hugging Face hub lays them out: a file, a folder, or a data set's name on the hub."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.datasets import Images, Left, Part, Source, fingerprint, location
from tasks.datasets._columns import check_same, damaged, find_columns, images_of, name_classes, open_file, read_labels
from tasks.datasets._hidden import is_hidden
from tasks.datasets._words import HUB_NAME, PARQUET, counted, few, is_junk, settle, split_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tasks.datasets import Encoded
    from tasks.records import Data

    Files = dict[str, list[Path]]
    """Part -> its files, in row order."""

READS = ("path", "image", "label")
NEEDS = ("path",)
CARD = (".md", ".json", ".txt", ".yaml")
"""Suffixes of the files that describe a data set."""
# rows decompressed at a time
BATCH_ROWS = 128


def open(data: Data) -> Source:
    """Open data.path: a .parquet file, a folder of them, or "owner/name" or "owner/name:config" on the hub.

    "owner/name:validation" (or train, test) is that part alone: of ImageNet, 6 GB rather than 150.
    A file belongs to the part that its name begins with (train-00000-of-00002.parquet) or that its folder is named
    after (train/0000.parquet); if no file says so, all are one set without splits ("train"). The columns are
    data.image and data.label, or the only ones that can be it; class names come from the schema's metadata (key
    "huggingface"), or are the labels themselves.

    Raises
    ------
    ValueError
        When its images are asked for: nothing there, the hub not reached, no image or label column, a damaged file.
    """

    find = cache(lambda: _find(data))

    def content() -> str:
        files, root = find()
        return fingerprint([path for paths in files.values() for path in paths], root)

    def load() -> Images:
        images = _load(find()[0], data)
        return replace(images, left=images.left + _beside(location(data)))

    return Source(load, content)


def _find(data: Data) -> tuple[Files, Path]:
    """Files of each part, and the folder below which they lie."""
    path = location(data)
    if path.is_file():
        return {"train": [path]}, path.parent
    if path.is_dir():
        chosen = _choose([name for name in _files(path) if name.lower().endswith(PARQUET)], None, data.path)
        return {part: [path / name for name in found] for part, found in chosen.items()}, path
    if match := HUB_NAME.fullmatch(data.path):
        return _download(match["repo"], match["config"], data.path)
    raise ValueError(
        f"data.path: {data.path} is not there; give a .parquet file, a folder of them, or a data set's "
        "name on the Hugging Face hub (owner/name)"
    )


def _files(folder: Path, *, hidden: bool = False) -> list[str]:
    """Names of the files in a folder and below it that nothing hides, or of the Parquet files that a dot hides."""
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        *folders, last = name.split("/")
        if is_junk(last) or any(is_junk(step, folder=True) for step in folders) or not path.is_file():
            continue
        if any(map(is_hidden, (*folders, last))) == hidden and (not hidden or name.lower().endswith(PARQUET)):
            found.append(name)
    return found


def _beside(path: Path) -> tuple[Left, ...]:
    """The files of a folder that are not Parquet, where a data set's card is no loss; and those that are hidden."""
    if not path.is_dir():
        return ()
    others = sorted(name for name in _files(path) if not name.lower().endswith(PARQUET))
    said = f"{counted(len(others), 'file that is', 'files that are')} not Parquet: {few(others)}"
    left = [Left(said, harmless=all(name.endswith(CARD) for name in others))] if others else []
    if hidden := sorted(_files(path, hidden=True)):
        rows = sum(open_file(path / name).metadata.num_rows for name in hidden)
        left.append(
            Left(f"{counted(rows, 'row')} of Parquet hidden by names that begin with a dot: {few(hidden)}", rows)
        )
    return tuple(left)


def _part_of(name: str) -> str | None:
    """Split word that a file's name or the name of its folder says."""
    path = PurePosixPath(name)
    for text in (re.sub(r"-\d+-of-\d+$", "", path.stem), path.parent.name):
        if word := split_of(text):
            return word[0]
    return None


def _choose(names: list[str], config: str | None, where: str) -> dict[str, list[str]]:
    """Files of one configuration, by part.

    Files of one configuration lie in one folder, or in folders named after parts in one folder.
    """
    if config and (word := split_of(config)) and not word[1]:
        names, config = [name for name in names if _part_of(name) == word[0]], None
    configs: dict[str, list[str]] = {}
    for name in sorted(names):
        folder = PurePosixPath(name).parent
        configs.setdefault((folder.parent if split_of(folder.name) else folder).as_posix(), []).append(name)
    if not configs:
        raise ValueError(f"data.path: {where} holds no .parquet files")
    if config is not None:
        configs = {folder: found for folder, found in configs.items() if config in folder.split("/")}
    if len(configs) != 1:
        there = ", ".join(configs) or ", ".join(sorted(names)[:5])
        raise ValueError(
            f"data.path: {where} holds {len(configs) or 'no such'} data sets (in {there}); give one of "
            "the folders, or owner/name:config for one on the hub"
        )
    (found,) = configs.values()
    parts: dict[str, list[str]] = {}
    for name in found:
        parts.setdefault(_part_of(name) or "", []).append(name)
    if "" in parts and len(parts) > 1:
        raise ValueError(
            f"data.path: {where}: {', '.join(parts[''])} begin with none of train, validation, valid, test"
        )
    if "" in parts:
        return {"train": found}
    means = settle(set(parts))
    if len(set(means.values())) < len(means):
        raise ValueError(f"data.path: {where} has several validation parts, {', '.join(sorted(parts))}; keep one")
    return {means[part]: found for part, found in parts.items()}


def _download(repo: str, config: str | None, where: str) -> tuple[Files, Path]:
    """Files of a data set on the hub, fetched into the hub's own cache."""
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        # where the hub keeps what it has converted to Parquet itself
        for revision in (None, "refs/convert/parquet"):
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


def _load(files: Files, data: Data) -> Images:
    """Columns are told from the first file, and must be the same in all; a part but the first may be without labels."""
    first = files.get("train", next(iter(files.values())))[0]
    columns = find_columns(open_file(first), first, data)
    parts: dict[str, tuple[list[int], list[Path]]] = {}
    values: dict[str, list[Any]] = {}
    for part, paths in files.items():
        opened = [open_file(path) for path in paths]
        labelled = [
            check_same(columns, first, file.schema_arrow, path) for file, path in zip(opened, paths, strict=True)
        ]
        if any(labelled) and not all(labelled):
            raise ValueError(
                f"data.path: {paths[labelled.index(False)]} has no column {columns.label}, which other files "
                f"of the {part} part have"
            )
        counts = [file.metadata.num_rows for file in opened]
        values[part] = read_labels(paths, columns) if all(labelled) else [None] * sum(counts)
        parts[part] = counts, paths
    classes, index = name_classes(columns, values, data.path)
    return Images(
        classes,
        {
            part: Part([index(value) for value in values[part]], _reader(paths, counts, columns.image))
            for part, (counts, paths) in parts.items()
        },
        columns.said(files),
        columns.left,
    )


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

    file, first = open_file(path), 0
    try:
        for group in range(file.num_row_groups):
            inside = _between(wanted, first, file.metadata.row_group(group).num_rows)
            first += file.metadata.row_group(group).num_rows
            start = 0
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]) if len(inside) else ():
                rows = _between(inside, start, batch.num_rows)
                before = first - file.metadata.row_group(group).num_rows + start
                for row, (content, name) in zip(rows, images_of(batch.column(0).take(rows)), strict=True):
                    yield content, name or f"{path.name} row {before + row}"
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
