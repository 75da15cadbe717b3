"""A full or broken disk, recognised in one place and said in one sentence.

Libraries say it in many ways: an errno, words of the system somewhere in their message, or only a file that is too
short ("unexpected pos", "Invalid thrift", "Wire format was corrupt"). `watched` stands around what writes.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT)
WORDS = (
    "No space left on device",
    "os error 28",
    "Disk quota exceeded",
    "os error 122",
    "disk is full",
    "No usable temporary directory",
)
BROKEN = (errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV, errno.ESTALE)
BROKEN_WORDS = (
    "Input/output error",
    "os error 5)",
    "Read-only file system",
    "os error 30)",
    "Stale file handle",
    " requested and ",
)
"""The last: NumPy's words for a write that came to less than was asked for; it does not tell the cause."""
LITTLE = 64 * 1024
"""Bytes. Where less is free, a failure that does not tell its cause is put down to it: a write that did not fit has
filled the disk to its last block, or nearly."""
PASSING = (".tmp-", ".bench-", ".deploy-")
"""What the names of folders begin with that burnish makes for a moment."""
STORED = ("store", "tmp")
"""The folders of passing files in an artifacts folder."""
WORDS_OF_CAUSE = 160
"""Characters of a library's own message."""
BLOCK = 1 << 20
TEMPORARY = 1 << 20
"""Bytes of temporary files that a run must have room for: libraries write copies of small models there."""
DATABASE = 8 << 20
"""Bytes of Prefect's database and its write-ahead log: 1.5 and 4.2 MB were measured when it was new, and runs add to
it."""


class DiskFull(Exception):
    """A disk has no room for what was to be written. The message is one sentence: which, how much is free, what to
    do."""


class DiskBroken(DiskFull):
    """A disk gives an error of its own. It ends a study as a full one does, as nothing that follows could be
    written."""


@dataclass(frozen=True)
class _Place:
    """A folder that may have become full."""

    folder: Path
    elsewhere: str
    """How a person chooses another."""

    @property
    def there(self) -> Path:
        """The folder, or what there is above it."""
        return next((path for path in (self.folder, *self.folder.parents) if path.exists()), Path("/"))

    @property
    def free(self) -> int:
        """Bytes that this user may still write."""
        return shutil.disk_usage(self.there).free

    @property
    def files(self) -> int | None:
        """Files that can still be made; None where the file system sets no number."""
        usage = os.statvfs(self.there)
        return usage.f_favail if usage.f_files else None

    @property
    def little(self) -> bool:
        return shutil.disk_usage(self.there).total > 0 and (self.free < LITTLE or self.files == 0)

    def holds(self, path: str) -> bool:
        return _Place(Path(path).absolute(), "").there.stat().st_dev == self.there.stat().st_dev

    def told(self, missing: str = "") -> str:
        """The sentence. It names the folder that a person knows, not one below it that is there for a moment."""
        parts = self.folder.parts
        hidden = (
            number for number, part in enumerate(parts) if part.startswith(PASSING) or parts[number:][:2] == STORED
        )
        folder = Path(*parts[: next(hidden, len(parts))])
        total = shutil.disk_usage(self.there).total
        left = "no more file can be made, although" if self.files == 0 and self.free >= LITTLE else "only"
        left = f"{left} {size(self.free)} of {size(total)} are free{missing}"
        return (
            f"the disk of {folder} is full: {left}; make room there or choose {self.elsewhere}, and the same "
            "command goes on"
        )


def size(count: int) -> str:
    """Bytes as a person reads them, e.g. 12.3 MB."""
    if count < 1000:
        return f"{count} bytes"
    rounded = float(f"{count:.3g}")
    power = min(int(math.log10(rounded)) // 3, 4)
    return f"{rounded / 1000**power:.3g} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def _prefect() -> _Place:
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    elsewhere = "another folder for Prefect's database with the variable PREFECT_HOME"
    return _Place(Path(home).expanduser().absolute(), elsewhere)


def _places(folders: tuple[str | Path, ...], option: str) -> list[_Place]:
    """The folders that are written to, which an option chooses, and those that every run writes to."""
    memory = Path("/dev/shm")
    return [
        *(_Place(Path(folder).absolute(), f"another folder with {option}") for folder in folders),
        _Place(Path(os.environ.get("TMPDIR") or "/tmp"), "another folder for temporary files with the variable TMPDIR"),
        _prefect(),
        *([_Place(memory, "a larger one (docker run --shm-size), or train.workers=0")] if memory.is_dir() else []),
    ]


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and all that led to it."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or one in found:
            continue
        found.append(one)
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return found


def _says_so(error: BaseException) -> bool:
    """Whether an exception itself names a full disk."""
    return (isinstance(error, OSError) and error.errno in FULL) or any(word in str(error) for word in WORDS)


def _broken(error: BaseException) -> bool:
    """Whether an exception names a disk that does not work."""
    return (isinstance(error, OSError) and error.errno in BROKEN) or any(word in str(error) for word in BROKEN_WORDS)


def _file(error: BaseException) -> str | None:
    """The file that could not be written, where an exception names it: the second of two, of a copy."""
    if not isinstance(error, OSError):
        return None
    name = error.filename2 or error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes) else None


def with_length(error: OSError, count: int) -> OSError:
    """An error of writing a file that should have become `count` bytes long, for the sentence to say it."""
    error.asked_bytes = count  # type: ignore[attr-defined]
    return error


def _asked(error: BaseException) -> int | None:
    """Bytes of the whole file that could not be written, where that is known: a copy is as long as what is copied."""
    count = getattr(error, "asked_bytes", None)
    if count is None and isinstance(error, OSError) and error.filename2 and Path(os.fsdecode(error.filename)).is_file():
        return Path(os.fsdecode(error.filename)).stat().st_size
    return count


def _missing(place: _Place, count: int | None, what: str = "the file takes") -> str:
    """What is written would take, and what is missing of that, as a part of the sentence; empty where it is not
    known."""
    short = 0 if count is None else count - place.free
    return f" and {what} {size(count)}, so {size(short)} are missing" if count is not None and short > 0 else ""


def full_disk(error: BaseException, *folders: str | Path, option: str = "--out") -> DiskFull | None:
    """The full or broken disk that an exception comes from, if it does.

    Parameters
    ----------
    error
        With what led to it.
    folders
        Folders that were written to, whose free space is looked at.
    option
        By which a person chooses them.
    """
    chain = _chain(error)
    if already := next((one for one in chain if isinstance(one, DiskFull)), None):
        return already
    places = _places(folders, option)
    full = next((place for place in places if place.little), None)
    sign = next((one for one in chain if _broken(one)), None)
    if sign and (full is None or (isinstance(sign, OSError) and sign.errno in BROKEN)):
        where = _file(sign) or places[0].folder
        said = getattr(sign, "strerror", None) or " ".join(str(sign).split())[:120]
        return DiskBroken(
            f"the disk does not take or give {where} ({said}): look into the system's log, and when it works "
            "the same command goes on"
        )
    signs = [one for one in chain if _says_so(one)]
    asked = next(filter(None, map(_asked, signs)), None)
    for sign in signs:
        if (file := _file(sign)) is not None:
            place = next((place for place in places if place.holds(file)), None)
            place = place or _Place(Path(file).absolute().parent, "another folder")
            return DiskFull(place.told(_missing(place, asked)))
    if signs:
        # None is full any more: what had been written is removed. So it is the one that has the least room.
        place = full or min(places, key=lambda place: place.free)
        removed = "" if full else " now that what had been written of it is removed"
        return DiskFull(place.told(_missing(place, asked) or removed))
    if full is None or not _unexplained(error):
        return None
    words = textwrap.shorten(str(error), WORDS_OF_CAUSE, placeholder=" …")
    return DiskFull(f"{full.told()}; what failed there said: {words}" if words else full.told())


def _unexplained(error: BaseException) -> bool:
    """Whether an exception may come from a file that is too short. A ValueError of a stage is what a person has to
    mend."""
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return True
    return isinstance(error, Exception) and not isinstance(error, ValueError)


@contextmanager
def watched(*folders: str | Path, option: str = "--out") -> Iterator[None]:
    """Raise DiskFull for whatever a full disk makes fail inside. `option`: by which a person chooses the folders.

    It must look before anything is removed there, so it stands within what cleans up.
    """
    try:
        yield
    except Exception as error:
        if (full := full_disk(error, *folders, option=option)) is not None and full is not error:
            raise full from error
        raise


def check_temporary() -> None:
    """Look for room for temporary files, before what fails for want of it names everything else.

    Raises
    ------
    DiskFull
        If there is too little.
    """
    place = next(place for place in _places((), "") if "TMPDIR" in place.elsewhere)
    if place.free < TEMPORARY:
        raise DiskFull(place.told(_missing(place, TEMPORARY, "temporary files take at least")))


def check_database() -> None:
    """Look for room for the database of Prefect's temporary server, which prints hundreds of lines where it has none.

    Raises
    ------
    DiskFull
        If there is too little.
    """
    place = _prefect()
    if not os.environ.get("PREFECT_API_URL") and place.free < DATABASE:
        raise DiskFull(place.told(_missing(place, DATABASE, "the database takes")))


def reserve(file: IO[bytes], folder: Path, count: int, what: str) -> None:
    """Reserve the first `count` bytes of an empty file on the disk, so that writing them cannot fail for want of room.

    `folder` is what a person knows it by, and `what` is to be written, e.g. "1797 decoded images".

    Raises
    ------
    DiskFull
        If there is no room; it says how many bytes are missing. The file is left empty.
    """
    place = _Place(folder.absolute(), "another folder with --out")
    free = place.free
    try:
        try:
            os.posix_fallocate(file.fileno(), 0, count)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            # a file system without it: what is written has its room
            for start in range(0, count, BLOCK):
                file.write(bytes(min(BLOCK, count - start)))
            file.flush()
            file.seek(0)
    except OSError as error:
        if error.errno not in FULL:
            raise
        file.seek(0)
        file.truncate()
        # before the file grew
        missing = f" and {what} take {size(count)}, so {size(max(count - free, 1))} are missing"
        raise DiskFull(place.told(missing)) from error
