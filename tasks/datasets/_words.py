"""Names as people give them: which folders and files are called after splits, which are left behind by systems, and how
a name that is not plain text is shown."""

from __future__ import annotations

import re

WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "validating", "valid", "val", "development", "dev"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
    "evaluation": ("evaluation", "evaluate", "eval"),
}
"""Split -> words for it. "evaluation" is resolved by `settle`."""

FILLERS = {"set", "sets", "split", "data", "dataset", "image", "images", "img", "imgs", "photos", "pictures", "folder"}
"""Words that a split's name may have beside it, e.g. in training_set."""

PARQUET = (".parquet", ".parq", ".pq")
TABLES = (".csv", ".tsv", ".jsonl")
HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(:(?P<config>[\w.-]+))?")
"""Name of a data set on the Hugging Face hub, with a configuration or split."""

_TOKEN = re.compile(
    "|".join(f"(?P<{split}>{'|'.join(words)})" for split, words in WORDS.items()).join(("(?:", ")"))
    + r"(?:set|split|data|dataset|images|imgs|img)?\d*"
)
_JUNK = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "__pycache__",
    ".ipynb_checkpoints",
    ".ds_store",
    ".git",
    ".svn",
    ".hg",
    ".dvc",
    ".datalad",
    ".cache",
    ".venv",
    ".idea",
    ".vscode",
    ".thumbnails",
    ".snapshot",
    ".snapshots",
    ".zfs",
    ".spotlight-v100",
    ".fseventsd",
    ".temporaryitems",
    ".stfolder",
    ".stversions",
    ".huggingface",
}


def split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """(Split that a name says, its other words without fillers), or None if it says none or several.

    >>> split_of("training_set"), split_of("seg_train"), split_of("cats")
    (('train', ()), ('train', ('seg',)), None)
    """
    found, rest = [], []
    for token in re.split(r"[^a-z0-9]+", name.lower()):
        match = _TOKEN.fullmatch(token)
        if match:
            found.append(next(split for split, text in match.groupdict().items() if text))
        elif token and token not in FILLERS and not token.isdigit():
            rest.append(token)
    return (found[0], tuple(rest)) if len(found) == 1 else None


def settle(splits: set[str]) -> dict[str, str]:
    """Split words that occur together -> train, validation or test: "evaluation" is whichever of the last two is
    missing.

    Where both are missing it is validation, which `_split.roles` takes for the test images if there are no others.
    """
    free = "test" if "validation" in splits and "test" not in splits else "validation"
    return {split: free if split == "evaluation" else split for split in splits}


def is_junk(name: str, *, folder: bool = False) -> bool:
    """Whether a file (or folder) of this name is left behind by a system, a notebook or a tool, and never part of a
    data set.

    macOS keeps what other file systems cannot hold of cat.jpg in the file ._cat.jpg; it makes no folders so called.
    """
    lower = name.lower()
    return lower in _JUNK or (lower.startswith((".trash", ".nfs")) if folder else lower.startswith("._"))


def shown(name: str) -> str:
    r"""A name as text that every table and terminal takes: bytes that are no UTF-8 and control characters as \xNN."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def few(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    """The first few names, for a message."""
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun, e.g. "1 image", "2 images"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
