"""Images in Parquet as the Hugging Face hub lays them out: a file, a folder, or a data set's name on the hub."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from models._messages import brief
from tasks.datasets._columns import find_columns, has_labels, images_of, name_classes, open_file, read_labels, reading
from tasks.datasets._hidden import is_hidden
from tasks.datasets._source import Images, Part, Source, Unused, fingerprint, location
from tasks.datasets._words import HUB_NAME, PARQUET, counted, few, is_junk, plain_split_word, settle, split_word

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tasks.datasets._decode import Encoded
    from tasks.records import Data

    Files = dict[str, list[Path]]
    """For each part, its files in row order."""

READS = ("path", "image", "label")
NEEDS = ("path",)
CARD = (".md", ".json", ".txt", ".yaml")
"""Suffixes of the files that describe a data set, such as its README.md."""
BATCH_ROWS = 128
"""This many rows are decompressed at a time."""


def open(data: Data) -> Source:
    """Open data.path: a .parquet file, a folder of them, or "owner/name" or "owner/name:config" on the hub.

    "owner/name:validation" (or train, test) is that part alone, which for ImageNet is 6 GB instead of 150 GB.

    A file belongs to the part that its name begins with (train-00000-of-00002.parquet) or that its folder is named
    after (train/0000.parquet). If no file says so, all files are one part without splits, "train". The columns are
    data.image and data.label, or the only ones that can hold images and labels. Class names come from the schema's
    metadata (key "huggingface"), or are the labels themselves.

    Raises
    ------
    ValueError
        When the images are needed: if nothing is there, the hub cannot be reached, no column can hold the images or
        the labels, or a file is damaged.
    """

    find = cache(lambda: _find(data))

    def content() -> str:
        files, root = find()
        return fingerprint([path for paths in files.values() for path in paths], root)

    def load() -> Images:
        files, root = find()
        images = _load(files, data)
        layout = _layout(files, root) or images.layout
        return replace(images, layout=layout, unused=images.unused + _unused_files(location(data)))

    return Source(load, content)


def _layout(files: Files, root: Path) -> str:
    """Return which files are which split, in words; empty where there is one part alone."""
    if len(files) < 2:
        return ""
    names = {part: few([path.relative_to(root).as_posix() for path in paths], 2) for part, paths in files.items()}
    return f"the splits are the files {', '.join(f'{name} ({part})' for part, name in names.items())}"


def _find(data: Data) -> tuple[Files, Path]:
    """Return the files of each part, and the folder below which they lie."""
    path = location(data)
    if path.is_file():
        return {"train": [path]}, path.parent
    if path.is_dir():
        names_of_part = _choose([name for name in _files(path) if name.lower().endswith(PARQUET)], None, data.path)
        return {part: [path / name for name in names] for part, names in names_of_part.items()}, path
    if match := HUB_NAME.fullmatch(data.path):
        return _download(match["repo"], match["config"], data.path)
    raise ValueError(
        f"data.path: {data.path} is not there; give a .parquet file, a folder of them, or a data set's "
        "name on the Hugging Face hub (owner/name)"
    )


def _files(folder: Path, *, hidden: bool = False) -> list[str]:
    """Return the names of the files in a folder and below it that no name hides.

    With `hidden`, return instead the names of the Parquet files that a name with a dot at its beginning hides.
    """
    files = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        *folders, file_name = name.split("/")
        if is_junk(file_name) or any(is_junk(step, folder=True) for step in folders) or not path.is_file():
            continue
        if any(map(is_hidden, (*folders, file_name))) == hidden and (not hidden or name.lower().endswith(PARQUET)):
            files.append(name)
    return files


def _unused_files(path: Path) -> tuple[Unused, ...]:
    """Return notes of the files in a folder that are not Parquet, and of the Parquet files that are hidden.

    Files that only describe the data set need no warning.
    """
    if not path.is_dir():
        return ()
    unused = []
    others = sorted(name for name in _files(path) if not name.lower().endswith(PARQUET))
    if others:
        description = f"{counted(len(others), 'file that is', 'files that are')} not Parquet: {few(others)}"
        unused.append(Unused(description, harmless=all(name.endswith(CARD) for name in others)))
    hidden = sorted(_files(path, hidden=True))
    if hidden:
        rows = sum(open_file(path / name).metadata.num_rows for name in hidden)
        description = f"{counted(rows, 'row')} of Parquet hidden by names that begin with a dot: {few(hidden)}"
        unused.append(Unused(description, rows))
    return tuple(unused)


def _split_of_file(name: str) -> str | None:
    """Return the word for the split that a file's name or else the name of its folder says, or None."""
    path = PurePosixPath(name)
    return split_word(re.sub(r"-\d+-of-\d+$", "", path.stem)) or split_word(path.parent.name)


def _choose(names: list[str], config: str | None, where: str) -> dict[str, list[str]]:
    """Return the names of the files of one configuration, by part.

    Parameters
    ----------
    names
        Names of Parquet files.
    config
        The configuration, or the split alone, that the user named after a colon. None: there must be one configuration.
    where
        What to call the data set in messages.
    """
    split = plain_split_word(config) if config else None
    if split:
        names = [name for name in names if _split_of_file(name) == split]
        config = None
    names = _files_of_config(names, config, where)
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(_split_of_file(name) or "", []).append(name)
    if "" in parts and len(parts) > 1:
        raise ValueError(
            f"data.path: {where}: {', '.join(parts[''])} begin with none of train, validation, valid, test"
        )
    if "" in parts:
        return {"train": names}
    meanings = settle(set(parts))
    if len(set(meanings.values())) < len(meanings):
        raise ValueError(f"data.path: {where} has several validation parts, {', '.join(sorted(parts))}; keep one")
    return {meanings[word]: part_names for word, part_names in parts.items()}


def _files_of_config(names: list[str], config: str | None, where: str) -> list[str]:
    """Return the names of the files of one configuration, sorted: of the one given, or of the only one.

    The files of a configuration lie in one folder, or in folders named after splits in one folder.
    """
    configs: dict[str, list[str]] = {}
    for name in sorted(names):
        folder = PurePosixPath(name).parent
        config_folder = folder.parent if split_word(folder.name) else folder
        configs.setdefault(config_folder.as_posix(), []).append(name)
    if not configs:
        raise ValueError(f"data.path: {where} holds no .parquet files")
    if config is not None:
        configs = {folder: files for folder, files in configs.items() if config in folder.split("/")}
    if len(configs) != 1:
        folders = ", ".join(configs) or ", ".join(sorted(names)[:5])
        raise ValueError(
            f"data.path: {where} holds {len(configs) or 'no such'} data sets (in {folders}); give one of "
            "the folders, or owner/name:config for one on the hub"
        )
    (files,) = configs.values()
    return files


def _download(repo: str, config: str | None, where: str) -> tuple[Files, Path]:
    """Fetch the files of a data set on the hub into the hub's own cache.

    Each chosen file is fetched by its name. huggingface_hub's `snapshot_download` would list the whole repository once
    more, and take patterns instead of names.

    Returns
    -------
    The files of each part, and the folder below which they lie.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        # Under the second revision, the hub keeps data sets that it has converted to Parquet itself.
        for revision in (None, "refs/convert/parquet"):
            info = HfApi().dataset_info(repo, revision=revision)
            names = [file.rfilename for file in info.siblings or () if file.rfilename.endswith(".parquet")]
            if names:
                break
        names_of_part = _choose(names, config, where)
        files = {
            part: [Path(hf_hub_download(repo, name, repo_type="dataset", revision=info.sha)) for name in part_names]
            for part, part_names in names_of_part.items()
        }
    # This is the HTTP library's own class, whichever of them the hub's library is built on.
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise ValueError(
            f"data.path: {where} does not exist here, and fetching it from the Hugging Face hub failed: {brief(error)}"
        ) from error
    first_file = next(iter(files.values()))[0]
    first_name = next(iter(names_of_part.values()))[0]
    depth = len(PurePosixPath(first_name).parts)
    return files, first_file.parents[depth - 1]


def _load(files: Files, data: Data) -> Images:
    """Return the images in the files of each part.

    The columns are found in the first file and must be the same in all. Any part but the first may lack labels.
    """
    first = files.get("train", next(iter(files.values())))[0]
    columns = find_columns(open_file(first), first, data)
    row_counts: dict[str, list[int]] = {}
    stored_labels: dict[str, list[Any]] = {}
    for part, paths in files.items():
        opened = [open_file(path) for path in paths]
        labelled = [
            has_labels(columns, first, file.schema_arrow, path) for file, path in zip(opened, paths, strict=True)
        ]
        if any(labelled) and not all(labelled):
            raise ValueError(
                f"data.path: {paths[labelled.index(False)]} has no column {columns.label}, which other files "
                f"of the {part} part have"
            )
        row_counts[part] = [file.metadata.num_rows for file in opened]
        stored_labels[part] = read_labels(paths, columns) if all(labelled) else [None] * sum(row_counts[part])
    classes, as_index = name_classes(columns, stored_labels, data.path)
    return Images(
        classes,
        {
            part: Part(
                [as_index(label) for label in stored_labels[part]], _reader(paths, row_counts[part], columns.image)
            )
            for part, paths in files.items()
        },
        columns.description(files),
        columns.unused,
    )


def _reader(
    paths: list[Path], counts: list[int], column: str
) -> Callable[[Sequence[int]], Iterator[tuple[Encoded, str]]]:
    """Return the function that reads images of a part.

    Parameters
    ----------
    paths
        The part's files. Their rows are numbered on from one file to the next.
    counts
        Number of rows of each file.
    column
        Name of the column of images.
    """

    def images(rows: Sequence[int]) -> Iterator[tuple[Encoded, str]]:
        wanted = np.asarray(rows, dtype=np.int64)
        first = 0
        for path, count in zip(paths, counts, strict=True):
            yield from _images_of_file(path, column, _between(wanted, first, count))
            first += count

    return images


def _between(rows: np.ndarray, first: int, count: int) -> np.ndarray:
    """Return those of the ascending row numbers that are among the `count` rows from `first` on, as offsets to it."""
    low, high = np.searchsorted(rows, (first, first + count))
    return rows[low:high] - first


def _images_of_file(path: Path, column: str, wanted: np.ndarray) -> Iterator[tuple[Encoded, str]]:
    """Yield the images and names of the wanted rows of a file. Only row groups that hold one of them are read."""
    file = open_file(path)
    # Number of the file's rows before the batch.
    before = 0
    with reading(path):
        for group in range(file.num_row_groups):
            group_rows = file.metadata.row_group(group).num_rows
            if not len(_between(wanted, before, group_rows)):
                before += group_rows
                continue
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
                rows = _between(wanted, before, batch.num_rows)
                for row, (content, name) in zip(rows, images_of(batch.column(0).take(rows)), strict=True):
                    yield content, name or f"{path.name} row {before + row}"
                before += batch.num_rows
