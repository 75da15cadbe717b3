"""The tuning journal: Optuna's operations, one per line, each with a hash of itself and of all lines before it.

Optuna's own journal file has no hashes: it accepts a score with a flipped digit, and a study whose file ends within a
line can never be opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from tasks.machine.durable import sync

if TYPE_CHECKING:
    import logging
    from pathlib import Path


def _hash(hash_before: str, operation: bytes) -> str:
    return hashlib.sha256(hash_before.encode() + operation).hexdigest()


class Journal:
    """A file of operations, which one process writes. Its first damaged line and all lines after it are dropped.

    It has the methods of Optuna's BaseJournalBackend and does not inherit from it, because importing Optuna takes
    seconds.

    Parameters
    ----------
    path
        The file, which is created where it is missing.
    log
        Gets a warning where the file is damaged.
    """

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self.path = path
        self.operations: list[dict[str, Any]] = []
        self.last = ""
        """Hash of the last undamaged line, and so of all lines before it."""
        self.bytes = 0
        """Length of the undamaged lines."""
        if not path.exists():
            path.touch()
            sync(path.parent)
        lines = path.read_bytes().splitlines(keepends=True)
        for line in lines:
            if not self._take(line):
                break
        lost = len(lines) - len(self.operations)
        if lost:
            log.warning(
                "%s is damaged from line %d on: its last %d of %d lines were removed, and the trials that they "
                "recorded are run again",
                path.name,
                len(self.operations) + 1,
                lost,
                len(lines),
            )
            self._cut()

    def _take(self, line: bytes) -> bool:
        """Add the operation of a line, and return whether the line is as it was written."""
        written, _, operation = line.partition(b" ")
        if not line.endswith(b"\n") or written.decode("ascii", "replace") != _hash(self.last, operation):
            return False
        self.operations.append(json.loads(operation))
        self.last = written.decode()
        self.bytes += len(line)
        return True

    def _cut(self) -> None:
        """Leave only the undamaged lines in the file."""
        os.truncate(self.path, self.bytes)
        sync(self.path)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the operations from a number on (a method of BaseJournalBackend)."""
        return self.operations[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations. When this returns, they are on the disk (a method of BaseJournalBackend)."""
        lines: list[bytes] = []
        last = self.last
        for log in logs:
            operation = json.dumps(log, separators=(",", ":")).encode() + b"\n"
            last = _hash(last, operation)
            lines.append(last.encode() + b" " + operation)
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # The write may have ended within a line.
            self._cut()
            raise
        for line in lines:
            assert self._take(line)
