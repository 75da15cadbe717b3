"""The tuning journal: Optuna's operations, one per line, each with a hash of itself and of all lines before it.

Optuna's own file takes a flipped digit of a score as it is, and refuses a study for ever once it was torn within a
line.
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


def _hash(before: str, operation: bytes) -> str:
    return hashlib.sha256(before.encode() + operation).hexdigest()


class Journal:
    """Operations in a file of one process. From its first damaged line on, what a file holds does not count.

    It has the methods of Optuna's BaseJournalBackend, and is none, as importing Optuna takes seconds.

    Parameters
    ----------
    path
        The file; made where it is missing.
    log
        Where damage is said.
    """

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self.path = path
        self.operations: list[dict[str, Any]] = []
        self.last = ""
        """Hash of the last line, which is that of all lines."""
        self.bytes = 0
        """Length of the good lines."""
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
                "%s is damaged from line %d on: its last %d of %d lines were removed, and the trials that they told "
                "of are run again",
                path.name,
                len(self.operations) + 1,
                lost,
                len(lines),
            )
            self._cut()

    def _take(self, line: bytes) -> bool:
        """Take a line in, if it is as it was written."""
        written, _, operation = line.partition(b" ")
        if not line.endswith(b"\n") or written.decode("ascii", "replace") != _hash(self.last, operation):
            return False
        self.operations.append(json.loads(operation))
        self.last, self.bytes = written.decode(), self.bytes + len(line)
        return True

    def _cut(self) -> None:
        """Leave only the good lines in the file."""
        os.truncate(self.path, self.bytes)
        sync(self.path)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """As Optuna asks: the operations from a number on."""
        return self.operations[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As Optuna asks: write operations, on the disk when this returns."""
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
            # a part of a line may be there
            self._cut()
            raise
        for line in lines:
            assert self._take(line)
