"""Names of files and folders as people give them.

Which of them name a split, which are left behind by operating systems and tools, and how they are shown in messages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "validating", "valid", "val", "development", "dev"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
    "evaluation": ("evaluation", "evaluate", "eval"),
}
"""For each split, the words that name it. "evaluation" may mean validation or test, which `settle` decides."""

FILLERS = {"set", "sets", "split", "data", "dataset", "image", "images", "img", "imgs", "photos", "pictures", "folder"}
"""Words that may stand beside the word for a split without changing its meaning, e.g. in training_set."""

PARQUET = (".parquet", ".parq", ".pq")
TABLES = (".csv", ".tsv", ".jsonl")
HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(:(?P<config>[\w.-]+))?")
"""The name of a data set on the Hugging Face hub, and after a colon that of a configuration or a split."""

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
    """Return the split that a name says and the name's other words without fillers, or None if it says none or several.

    >>> split_of("training_set"), split_of("seg_train"), split_of("cats")
    (('train', ()), ('train', ('seg',)), None)
    """
    splits = []
    other_words = []
    for token in re.split(r"[^a-z0-9]+", name.lower()):
        match = _TOKEN.fullmatch(token)
        if match:
            splits.append(next(split for split, text in match.groupdict().items() if text))
        elif token and token not in FILLERS and not token.isdigit():
            other_words.append(token)
    return (splits[0], tuple(other_words)) if len(splits) == 1 else None


def split_word(name: str) -> str | None:
    """Return the split that a name says, whatever else it says, or None."""
    split_and_rest = split_of(name)
    return split_and_rest[0] if split_and_rest else None


def plain_split_word(name: str) -> str | None:
    """Return the split that a name says if it says nothing else, or None."""
    split_and_rest = split_of(name)
    return split_and_rest[0] if split_and_rest and not split_and_rest[1] else None


def settle(splits: set[str]) -> dict[str, str]:
    """Decide what the split words that occur together mean, and return train, validation or test for each of them.

    "evaluation" means whichever of validation and test is missing. If both are missing it means validation, which
    `_split.roles` uses for the test split if there are no other test images.
    """
    meaning = "test" if "validation" in splits and "test" not in splits else "validation"
    return {split: meaning if split == "evaluation" else split for split in splits}


def is_junk(name: str, *, folder: bool = False) -> bool:
    """Return whether a file or folder of this name is left behind by a system, a notebook or a tool.

    Such files are never part of a data set. In a file ._cat.jpg, macOS keeps what another file system cannot hold of
    cat.jpg; it makes no folders with such names.
    """
    lower = name.lower()
    if lower in _JUNK:
        return True
    return lower.startswith((".trash", ".nfs") if folder else "._")


def shown(name: str) -> str:
    r"""Return a name as text for tables and terminals. Control characters and bytes that are not UTF-8 become \xNN."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def few(names: Sequence[str], most: int = 5) -> str:
    """Return the first `most` names for a message, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + rest


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun, e.g. "1 image", "2 images"."""
    noun = singular if count == 1 else plural or f"{singular}s"
    return f"{count:,} {noun}"
