"""A full or broken disk, recognised in one place and reported in one sentence.

Libraries report a full disk in many ways: by an errno, by the system's words somewhere in their message, or only by a
complaint about a file that is too short ("unexpected pos", "Invalid thrift", "Wire format was corrupt"). `watched` is
put around code that writes.
"""

from __future__ import annotations

import errno
import json
import os
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tasks.machine.room import Place, database_place, places_of_run, shortage, size, temporary_place

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
"""The last one is what NumPy says when fewer bytes were written than it handed over; it does not say why."""
WORDS_OF_CAUSE = 160
"""Characters of a library's own message that are repeated, at most."""
BLOCK = 1 << 20
"""Bytes that are written at a time to reserve room on a file system that cannot do it by itself."""
TEMPORARY = 1 << 20
"""Bytes of temporary files that a run must have room for, because libraries write copies of small models there."""
DATABASE = 8 << 20
"""Bytes that Prefect's database and its write-ahead log must have room for. New ones took 1.5 and 4.2 MB when measured,
and runs add to them."""


class DiskFull(Exception):
    """A disk has no room for what was to be written.

    The message is one sentence that says which disk, how much is free, and what to do.
    """


class DiskBroken(DiskFull):
    """A disk does not work. This ends a study as a full disk does, because nothing that follows could be written."""


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and all exceptions that led to it."""
    chain: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop(0)
        if link is None or link in chain:
            continue
        chain.append(link)
        waiting += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions
    return chain


def _names_full_disk(error: BaseException) -> bool:
    """Return whether an exception itself names a full disk."""
    return (isinstance(error, OSError) and error.errno in FULL) or any(word in str(error) for word in WORDS)


def _names_broken_disk(error: BaseException) -> bool:
    """Return whether an exception names a disk that does not work."""
    return (isinstance(error, OSError) and error.errno in BROKEN) or any(word in str(error) for word in BROKEN_WORDS)


def _unwritten_file(error: BaseException) -> str | None:
    """Return the file that could not be written, if an exception names it. Of a copy it is the second file."""
    if not isinstance(error, OSError):
        return None
    name = error.filename2 or error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes) else None


def with_length(error: OSError, count: int) -> OSError:
    """Return the error of writing a file after noting in it that the file should have become `count` bytes long."""
    error.asked_bytes = count  # type: ignore[attr-defined]
    return error


def _whole_length(error: BaseException) -> int | None:
    """Return how many bytes the file that could not be written should have, if that is known.

    A copy should have as many as the file that is copied.
    """
    count = getattr(error, "asked_bytes", None)
    if count is None and isinstance(error, OSError) and error.filename2 and Path(os.fsdecode(error.filename)).is_file():
        return Path(os.fsdecode(error.filename)).stat().st_size
    return count


def full_disk(error: BaseException, *folders: str | Path, option: str = "--out") -> DiskFull | None:
    """Return the full or broken disk that an exception comes from. None means that it comes from something else.

    Parameters
    ----------
    error
        The exception, with those that led to it.
    folders
        Folders that were written to, whose free space is looked at.
    option
        The command's option by which a person chooses these folders.
    """
    chain = _chain(error)
    for link in chain:
        if isinstance(link, DiskFull):
            return link
    places = places_of_run(folders, option)
    full = next((place for place in places if place.full), None)
    broken = next((link for link in chain if _names_broken_disk(link)), None)
    if broken and (full is None or (isinstance(broken, OSError) and broken.errno in BROKEN)):
        return _broken_disk(broken, places)
    signs = [link for link in chain if _names_full_disk(link)]
    if signs:
        return _named_full_disk(signs, places, full)
    if full is None or not _unexplained(error):
        return None
    words = textwrap.shorten(str(error), WORDS_OF_CAUSE, placeholder=" …")
    return DiskFull(f"{full.sentence()}; the error was: {words}" if words else full.sentence())


def _broken_disk(error: BaseException, places: list[Place]) -> DiskBroken:
    """Return the report of the disk that `error` says does not work."""
    where = _unwritten_file(error) or places[0].folder
    words = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
    return DiskBroken(
        f"the disk does not take or give {where} ({words}): look into the system's log, and when it works "
        "the same command goes on"
    )


def _named_full_disk(signs: list[BaseException], places: list[Place], full: Place | None) -> DiskFull:
    """Return the report of the full disk that the exceptions `signs` name.

    `full` is the one of `places` that is full now, if there is one.
    """
    length = next(filter(None, map(_whole_length, signs)), None)
    for sign in signs:
        if (file := _unwritten_file(sign)) is not None:
            place = next((place for place in places if place.on_disk_of(file)), None)
            place = place or Place(Path(file).absolute().parent, "another folder")
            return DiskFull(place.sentence(shortage(place, length)))
    if full is not None:
        return DiskFull(full.sentence(shortage(full, length)))
    # None is full any more, because what had been written was removed. So it was the one with the least room.
    place = min(places, key=lambda place: place.free)
    removed = " now that what had been written of it is removed"
    return DiskFull(place.sentence(shortage(place, length) or removed))


def _unexplained(error: BaseException) -> bool:
    """Return whether an exception may come from a file that is too short.

    A ValueError of a stage does not: it is something that the user has to mend.
    """
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return True
    return isinstance(error, Exception) and not isinstance(error, ValueError)


@contextmanager
def watched(*folders: str | Path, option: str = "--out") -> Iterator[None]:
    """Raise DiskFull in place of any exception in the block that comes from a full or broken disk.

    `option` is the command's option by which a person chooses the folders. Code that cleans up belongs outside this
    block, because the free space is looked at before anything is removed.
    """
    try:
        yield
    except Exception as error:
        if (full := full_disk(error, *folders, option=option)) is not None and full is not error:
            raise full from error
        raise


def check_temporary() -> None:
    """Check that there is room for temporary files, because what fails without it names everything but the disk.

    Raises
    ------
    DiskFull
        If there is too little.
    """
    place = temporary_place()
    if place.free < TEMPORARY:
        raise DiskFull(place.sentence(shortage(place, TEMPORARY, "temporary files take at least")))


def check_database() -> None:
    """Check that there is room for the database of Prefect's temporary server, which prints hundreds of lines without.

    Raises
    ------
    DiskFull
        If there is too little.
    """
    place = database_place()
    if not os.environ.get("PREFECT_API_URL") and place.free < DATABASE:
        raise DiskFull(place.sentence(shortage(place, DATABASE, "the database takes")))


def reserve(file: IO[bytes], folder: Path, count: int, content: str) -> None:
    """Reserve the first `count` bytes of an empty file on the disk, so that writing them cannot fail for want of room.

    The error names `folder`, which a person knows, and the `content` of the file, e.g. "1797 decoded images".

    Raises
    ------
    DiskFull
        If there is no room. It says how many bytes are missing. The file is left empty.
    """
    place = Place(folder.absolute(), "another folder with --out")
    free_before = place.free
    try:
        _allocate(file, count)
    except OSError as error:
        if error.errno not in FULL:
            raise
        file.seek(0)
        file.truncate()
        missing = f" and {content} take {size(count)}, so {size(max(count - free_before, 1))} are missing"
        raise DiskFull(place.sentence(missing)) from error


def _allocate(file: IO[bytes], count: int) -> None:
    """Make an empty file take `count` bytes of the disk."""
    try:
        os.posix_fallocate(file.fileno(), 0, count)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        # The file system cannot reserve room, so zeros are written, which later writes replace.
        for start in range(0, count, BLOCK):
            file.write(bytes(min(BLOCK, count - start)))
        file.flush()
        file.seek(0)
