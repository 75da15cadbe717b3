"""Restores what burnish changes in a process in which it runs as a function and not as a command."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def environment_and_log_restored() -> Iterator[None]:
    """Restore the environment variables, and burnish's log, to which Prefect adds its console handler.

    Fixtures of a session need it themselves: they run before the fixtures that restore both after each module and test.
    """
    before = dict(os.environ)
    log = logging.getLogger("burnish")
    handlers, level, propagates = list(log.handlers), log.level, log.propagate
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        log.handlers[:] = handlers
        log.setLevel(level)
        log.propagate = propagates
